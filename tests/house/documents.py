"""The commands that the documents tell users to type, and how each is known to work."""

import re
from dataclasses import dataclass

from tests.house.checker import ROOT


@dataclass(frozen=True)
class Run:
    """Typed as it stands, in a scratch folder that sees the checkout; `extra` words follow it."""

    extra: str = ""


@dataclass(frozen=True)
class Help:
    """Too much for a test: its program must exist and each of its flags must stand in its `--help`."""


@dataclass(frozen=True)
class InCI:
    """A line of `.ci/run`."""


@dataclass(frozen=True)
class ByTest:
    """What it does is done by a test: "tests/cli/test_generate.py::test_name"."""

    by: str


@dataclass(frozen=True)
class Unchecked:
    """Changes the machine or needs the network."""

    because: str


DRY = Run("--dry-run")
SETS_UP = Unchecked("installs")
PHASE2 = ByTest("tests/cli/test_diagnostics_commands.py::test_profile_and_visualize_as_the_documents_say")
SHARDS = ByTest("tests/cli/test_diagnostics_commands.py::test_shards_merge")
QUANTIZE = ByTest(
    "tests/cli/test_quantize_commands.py::test_script_writes_a_checkpoint_with_activation_grids"
)
METHODS = ByTest("tests/cli/test_quantize_commands.py::test_methods_are_compared_on_the_same_grids")
COMMANDS: dict[str, Run | Help | InCI | ByTest | Unchecked] = {
    "make demo": InCI(),
    "make test": InCI(),
    "make lint": ByTest("tests/house/test_quality.py::test_ruff_finds_nothing"),
    "make format": Unchecked("changes the source"),
    "uv sync": SETS_UP,
    "python -m pip install --editable .": SETS_UP,
    "python -m pip install --no-deps diffusionkit==0.5.2": SETS_UP,
    "python -m pip install --editable '.[cuda]'": SETS_UP,
    "python -m pip uninstall --yes mlx-cpu": SETS_UP,
    "python -m pip install --force-reinstall --no-deps mlx-cuda-13": SETS_UP,
    "git clone https://github.com/argmaxinc/DiffusionKit ../DiffusionKit": Unchecked("downloads"),
    "ln -s ../../DiffusionKit/python DiffusionKit/python": Unchecked("links what was cloned"),
    "make test ARGS='tests/models -k mmdit'": Unchecked("a part of make test"),
    ".venv/bin/python -m pytest tests/models -k mmdit": Unchecked("a part of make test"),
    # README.md
    "source .venv/bin/activate": Unchecked("changes the shell"),
    'python -m src.generate --model mini "a fox in the snow" "a large owl at night" --out pictures': Run(),
    "python -m src.generate --help": Run(),
    'python -m src.generate --model sd3-medium "a tabby cat sitting on a wooden table" --text-encoders clip'
    " --size 512 --out pictures": DRY,
    "python -m src.generate --model sd3-medium --prompts-file prompts/visual_inspection.txt --out pictures"
    " --dry-run": Run(),
    "python -m src.calibration_sample_generation.sample_cali_data --model mini --output DiT_cali_data.npz": DRY,
    "python -m src.generate_calibration_data --model mini --num-images 8 --num-steps 28"
    " --calib-dir calibration_data": Run(),
    "ditq --help": ByTest(
        "tests/cli/test_main.py::test_help_lists_the_steps_a_line_each_in_the_order_of_use"
    ),
    'ditq generate --model mini "a fox in the snow" --out pictures': ByTest(
        "tests/cli/test_main.py::test_arguments_are_the_step_s_own"
    ),
    # docs/mini.md
    'python -m src.generate --model mini "a large fox in the snow"': Run(),
    "python -m pip install --editable '.[train]'": SETS_UP,
    "python scripts/train_mini.py data": Help(),
    "python scripts/train_mini.py flow": Help(),
    "python scripts/train_mini.py decoder": Help(),
    "python scripts/train_mini.py classifier": Help(),
    "python scripts/train_mini.py gate": Help(),
    "python scripts/train_mini.py export": Help(),
    "python scripts/train_mini.py curve": Help(),
    # docs/PHASE1.md
    "python -m src.generate_calibration_data --model mini --num-images 3 --num-steps 28 --cfg-weight 3"
    " --calib-dir demo/figure_data": Run(),
    "python -m src.show_trajectory --calib-dir demo/figure_data --images 0 1 2 --columns 7"
    " --out docs/figures/trajectory.png": Run(),
    "python -m src.calibration_sample_generation.sample_cali_data --output DiT_cali_data.npz": DRY,
    "python -m src.calibration_sample_generation.sample_cali_data --num-fid-samples 8 --num-sampling-steps 20"
    " --num-selected-steps 5 --output dry_run_cali.npz": DRY,
    "python -m src.generate_calibration_data --model mini --num-images 50 --num-steps 50 --cfg-weight 7.5"
    " --calib-dir calibration_data": DRY,
    # docs/PHASE2.md
    "python -m src.activation_diagnostics.profile_postgelu --calibration-file DiT_cali_data.npz --num-samples 512"
    " --output activation_stats_postgelu.npz": PHASE2,
    "python -m src.activation_diagnostics.visualize_postgelu --stats-file activation_stats_postgelu.npz"
    " --output-dir activation_plots/": PHASE2,
    "python -m src.activation_diagnostics.visualize_postgelu --stats-file activation_stats_postgelu.npz"
    " --output-dir activation_plots/ --layers mm_00_img mm_12_img mm_23_img --force": PHASE2,
    "python -m src.activation_diagnostics.profile_postgelu --calibration-file DiT_cali_data.npz --shard 0/2"
    " --output first.npz": SHARDS,
    "python -m src.activation_diagnostics.profile_postgelu --calibration-file DiT_cali_data.npz --shard 1/2"
    " --output second.npz": SHARDS,
    "python -m src.activation_diagnostics.profile_postgelu --merge first.npz second.npz"
    " --output activation_stats_postgelu.npz": SHARDS,
    "python -m src.calibration_sample_generation.sample_cali_data --model mini --num-fid-samples 32"
    " --num-sampling-steps 28 --num-selected-steps 14 --cfg-weight 3 --batch-size 8 --output demo/phase2_cali.npz"
    " --force": Run("--num-fid-samples 2"),
    "python -m src.activation_diagnostics.profile_postgelu --calibration-file demo/phase2_cali.npz --num-samples 448"
    " --output demo/phase2_stats.npz --force": Run("--num-samples 28"),
    "python -m src.activation_diagnostics.visualize_postgelu --stats-file demo/phase2_stats.npz"
    " --output-dir docs/figures/phase2 --layers mm_03_img --figures range_vs_timestep_all negative_fraction_heatmap"
    " heatmap_std histogram ridge channel_ranges channel_heatmap weight_ranges levels --force": Run(),
    'python -m src.load_adaround_model --checkpoint mini-w4a8 --prompt "a fox in the snow" --output-image fox.png'
    " --compare --diff-stats": ByTest(
        "tests/cli/test_checkpoint_commands.py::test_compare_and_statistics_are_of_the_pictures_that_are_written"
    ),
    # docs/PHASE3.md
    "python -m src.run_pipeline --model mini --out pipeline": ByTest(
        "tests/cli/test_run_pipeline.py::test_every_step_leaves_what_it_is_for"
    ),
    "python -m src.run_pipeline --model sd3-medium --text-encoders clip --size 512 --out sd3-w4a8": DRY,
    "python -m src.generate_calibration_data --model mini --num-images 40 --num-steps 28 --cfg-weight 3 --batch-size 10"
    " --calib-dir calibration_data": Run("--num-images 2 --num-steps 8"),
    "python -m src.collect_layer_activations --calib-dir calibration_data --num-images 10 --stride 2": Run(
        "--num-images 2"
    ),
    "python -m src.analyze_activations --stats calibration_data/activations/layer_statistics.json"
    " --output calibration_data/activations/quant_config.json --bits 8": Run(),
    "python -m src.cache_adaround_data --calib-dir calibration_data --output-dir calibration_data/adaround_cache"
    " --num-images 40 --stride 7": Run("--num-images 2"),
    "python -m src.adaround_optimize --cache-dir calibration_data/adaround_cache --output-dir adaround_output"
    " --quant-config calibration_data/activations/quant_config.json --bits-w 4 --bits-a 8 --iters 400": Run(
        "--iters 3"
    ),
    "python -m src.load_adaround_model --adaround-output adaround_output"
    ' --quant-config calibration_data/activations/quant_config.json --prompt "a fox in the snow"'
    " --output-image quant_test.png --compare --diff-stats": Run("--steps 3"),
    "python -m src.export_checkpoint --adaround-output adaround_output"
    " --quant-config calibration_data/activations/quant_config.json --out mini-w4a8": Run(),
    # docs/recipes.md
    "python -m src.quantize --list": Run(),
    "python -m src.generate_calibration_data --model mini --num-images 16 --num-steps 28 --cfg-weight 3 --batch-size 8"
    " --calib-dir calibration_data": DRY,
    "python -m src.quantize --model mini --recipe w4a8-gptq --calib calibration_data --out mini-w4a8": QUANTIZE,
    "python -m src.quantize_qronos --blocks 2 --calib calibration_data --out mini-qronos": ByTest(
        "tests/cli/test_quantize_commands.py::test_recipe_files_first_blocks_and_quantized_adaln"
    ),
    "python scripts/01_collect_calibration_data.py --num_samples 256 --batch_size 4 --output_dir"
    " ./calibration_data": DRY,
    "python scripts/02_quantize_model.py --calibration_data ./calibration_data --wbits 4 --abits 8 --output_dir"
    " ./quantized_model": QUANTIZE,
    "python scripts/03_benchmark.py --num_images 5000 --batch_size 4 --output_dir ./results": DRY,
    "python scripts/generate_samples.py --prompts_file ./prompts/visual_inspection.txt --output_dir"
    " ./outputs/visual_samples --compare": ByTest(
        "tests/cli/test_quantize_commands.py::test_samples_side_by_side"
    ),
    "python -m src.compare_methods --model mini --calib calibration_data --out methods": METHODS,
    # docs/results/methods_mini.md
    "python -m src.generate_calibration_data --model mini --num-images 16 --num-steps 28 --cfg-weight 3 --batch-size 8"
    " --calib-dir demo/methods_data": DRY,
    "python -m src.compare_methods --model mini --calib demo/methods_data --out demo/methods --iters 200 --report"
    " docs/results/methods_mini.md": METHODS,
}
"""Every command of every ```bash block, as `commands` spells it. One that no document holds must leave the table."""


def blocks() -> dict[str, list[str]]:
    """The commands of each ```bash block, by document and number: {"README.md 1": ["make demo"], ...}."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "DiffusionKit" / "README.md"]
    found = {}
    for path in sorted(path for path in paths if path.is_file()):
        texts = re.findall(
            r"^```(?:bash|sh|shell)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        found |= {f"{path.relative_to(ROOT)} {i}": commands(text) for i, text in enumerate(texts, 1)}
    return found


def commands(text: str) -> list[str]:
    """The commands of a block: prompts and comments taken off, continued lines joined, spaces made single."""
    lines = text.replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s)#.*$", "", line).removeprefix("$ ") for line in lines)
    return [" ".join(line.split()) for line in bare if line.strip()]
