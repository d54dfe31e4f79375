"""The commands that the documents tell users to type, and what makes each small enough for a test."""

import re

from tests.house.checker import ROOT

SETS_UP = ("uv sync", "python -m pip ", "git clone ", "ln -s ", "source ")
"""How commands begin that change the machine or need the network. They are not typed by a test."""

SD3 = "--model sd3-medium"
"""What a command names whose weights are not at hand: it is typed with `--dry-run`."""

TRAINING = "python scripts/train_mini.py"
"""Takes hours, and is not typed: its steps must stand in its help."""

FEW = "--num-images 3 --num-steps 8 --batch-size 2 --model mini --force"
FEW_POINTS = "--num-fid-samples 2 --num-sampling-steps 6 --num-selected-steps 3 --model mini --force"
FEW_ROWS = "--num-images 2 --stride 3 --batch-size 2"
LITTLE = "--num-timed 1 --num-flat 1 --num-trajectories 1"
SMALLER = {
    "ditq generate": "--steps 3 --force",
    "python -m src.generate": "--steps 3 --force",
    "python -m src.generate_calibration_data": FEW,
    "python -m src.calibration_sample_generation.sample_cali_data": FEW_POINTS,
    "python -m src.activation_diagnostics.profile_postgelu": "--num-samples 3 --force",
    "python -m src.activation_diagnostics.visualize_postgelu": "--layers mm_00_img --force",
    "python -m src.collect_layer_activations": FEW_ROWS,
    "python -m src.measure_damage": "--num-images 1 --stride 4 --noise-steps 2",
    "python -m src.cache_adaround_data": FEW_ROWS,
    "python -m src.adaround_optimize": "--iters 3",
    "python -m src.load_adaround_model": "--steps 3",
    "python -m src.quantize": f"{FEW_ROWS} --blocks 1",
    "python -m src.quantize_qronos": f"{FEW_ROWS} --blocks 1",
    "python -m src.compare_methods": f"{FEW_ROWS} --bits 4 --methods rounding-mse gptq --iters 3 --num-prompts 2"
    " --num-held-out 1 --steps 2 --force",
    "python -m src.evaluate": f"--num-prompts 2 --steps 3 {LITTLE}",
    "python -m src.run_pipeline": "--steps 3 --images 2 --cache-images 2 --cache-stride 2 --statistics-images 2"
    " --statistics-stride 2 --iters 3 --tuning 2 --prompts 2 --batch-size 2",
    "python scripts/01_collect_calibration_data.py": "--num_samples 3 --steps 8 --model mini --force",
    "python scripts/02_quantize_model.py": f"{FEW_ROWS} --blocks 1",
    "python scripts/03_benchmark.py": f"--num_images 2 --steps 3 --checkpoint ./quantized_model {LITTLE}",
    "python scripts/generate_samples.py": "--steps 2 --checkpoint ./quantized_model",
}
"""Flags that are typed after a program's own, so that it does little: the last of two equal flags holds."""

MADE_BEFORE = {
    "docs/PHASE2.md": [
        "python -m src.calibration_sample_generation.sample_cali_data --model mini --output DiT_cali_data.npz"
    ]
}
"""What a document takes from an earlier one."""


def typed(command: str) -> str:
    """A command of a document as its test types it: with `SMALLER`'s flags, dry where SD3's weights are wanted."""
    if SD3 in command:
        return f"{command} --dry-run"
    program = max((name for name in SMALLER if f"{command} ".startswith(f"{name} ")), key=len, default=None)
    merging = "--merge" in command  # what is merged has its amounts in it
    extra = "--force" if merging else SMALLER.get(program or "", "")
    return f"{command} {extra}".strip()


def documents() -> dict[str, list[str]]:
    """The commands of all ```bash blocks of each document, in order: {"README.md": ["make demo", ...], ...}."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "DiffusionKit" / "README.md"]
    found = {}
    for path in sorted(path for path in paths if path.is_file()):
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if blocks:
            found[str(path.relative_to(ROOT))] = [line for block in blocks for line in commands(block)]
    return found


def commands(text: str) -> list[str]:
    """The commands of a block: prompts and comments taken off, continued lines joined, spaces made single."""
    lines = text.replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s)#.*$", "", line).removeprefix("$ ") for line in lines)
    return [" ".join(line.split()) for line in bare if line.strip()]
