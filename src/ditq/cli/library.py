"""What a documented module without a command of its own says when it is run, as with --help."""

import sys

from ditq.cli.output import say, say_error

TOLD = {
    "calibration_config": (
        "The defaults of TaQ-DiT's calibration set: 256 trajectories of 100 steps, 25 kept of each, guidance 1.5.",
        "src.calibration_sample_generation.sample_cali_data",
    ),
    "calibration_collector": (
        "Records trajectories and keeps a few evenly spread (x_t, t) of each: collect_points(model, ...).",
        "src.calibration_sample_generation.sample_cali_data",
    ),
    "activation_tracer": (
        "Shows what a network's layers receive, with traced(network, ...), and keeps statistics of it.",
        "src.activation_diagnostics.profile_postgelu",
    ),
}
"""By module: what it holds, and the command that does the work."""


def tell(name: str, argv: list[str] | None = None) -> None:
    """Prints what the module holds and which command uses it. Any argument but --help ends with status 2."""
    holds, command = TOLD[name]
    wrong = [word for word in (sys.argv[1:] if argv is None else argv) if word not in ("-h", "--help")]
    if wrong:
        say_error(f"error: {name} has no command of its own; run python -m {command} --help")
        sys.exit(2)
    say(f"{holds}\nIt is a module to import. The command that does this: python -m {command} --help")
