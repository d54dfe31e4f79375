"""The installed command: `ditq <step>` runs what `python -m src.<step>` does in a checkout."""

import sys
from importlib import import_module

import ditq
from ditq.cli.output import say, say_error
from ditq.cli.parsing import called_as
from ditq.cli.values import shown
from ditq.core.remedies import as_installed

STEPS: dict[str, tuple[str, str]] = {
    "generate": ("generate", "draw pictures from prompts, with the float model or beside a quantized one"),
    "generate-calibration-data": ("generate_calibration_data", "record whole denoising trajectories"),
    "show-trajectory": ("show_trajectory", "draw recorded trajectories, from noise to picture"),
    "quantize": ("quantize", "quantize a model as a recipe says, into a checkpoint folder"),
    "quantize-qronos": ("quantize_qronos", "the same with Qronos, on the first blocks or all"),
    "evaluate": ("evaluate", "checkpoints against the float model: pictures, errors, time, memory, a page"),
    "benchmark": ("benchmark", "the same with the amounts of the GPTQ baseline: 5000 pictures"),
    "compare-methods": ("compare_methods", "put weights on the same grids by every method, and compare"),
    "collect-layer-activations": ("collect_layer_activations", "step 2A: what every layer receives"),
    "measure-damage": ("measure_damage", "what errors in layers' inputs cost at the end of a trajectory"),
    "analyze-activations": ("analyze_activations", "step 3A: bits, grids and channel factors of activations"),
    "cache-adaround-data": ("cache_adaround_data", "step 2W: inputs and outputs of every block"),
    "adaround-optimize": ("adaround_optimize", "step 3W: learned rounding of every block's weights"),
    "export-checkpoint": ("export_checkpoint", "write a folder that stock MLX loaders read"),
    "load-adaround-model": ("load_adaround_model", "step 4: draw with a quantized model"),
    "run-pipeline": ("run_pipeline", "steps 1 to 4, both tracks, and a page that compares"),
    "sample-cali-data": ("sample_cali_data", "the calibration points of TaQ-DiT"),
    "profile-postgelu": ("profile_postgelu", "statistics of post-GELU activations on those points"),
    "visualize-postgelu": ("visualize_postgelu", "figures, a table and a verdict of such statistics"),
}
"""Each step's module in `ditq.cli` and what it does, in the order of use."""


def main(argv: list[str] | None = None) -> None:
    """Runs the step that the first argument names; its other arguments are the step's."""
    step, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if step in ("-h", "--help"):
        say(usage())
    elif step == "--version":
        say(f"ditq {ditq.__version__}")
    elif (name := step.replace("_", "-")) in STEPS:
        module = import_module(f"ditq.cli.{STEPS[name][0]}")
        with called_as(f"ditq {name}"), as_installed():
            module.main(rest)
    else:
        say_error(f"error: step: got {shown(step)}; expected one of {', '.join(STEPS)}")
        sys.exit(2)


def usage() -> str:
    """How the command is called, with a line for each step."""
    width = max(map(len, STEPS))
    lines = [f"  {name:<{width}}  {told}" for name, (_, told) in STEPS.items()]
    return "\n".join(
        [
            "usage: ditq STEP [flags]   (ditq STEP --help: the flags of a step; ditq --version)",
            "",
            "Quantizes diffusion transformers in MLX: smaller models, the same pictures.",
            "",
            "steps, in the order in which they are used:",
            *lines,
        ]
    )


if __name__ == "__main__":
    main()
