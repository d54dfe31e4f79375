"""`scripts/03_benchmark.py` and `python -m src.benchmark_final`: `evaluate` with the amounts of the GPTQ baseline."""

from ditq.cli.evaluate import carry_out
from ditq.cli.evaluation_flags import evaluate_flags
from ditq.cli.run import run

PICTURES = {"mini": 32}
"""By model, where the baseline's 5000 are more than is needed."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and measures."""
    flags = evaluate_flags(
        "python scripts/03_benchmark.py --num_images 5000 --batch_size 4 --output_dir ./results",
        "5000; mini: 32",
    )
    args = flags.parse_args(argv)
    if args.num_images is None:
        args.num_images = PICTURES.get(args.model, 5000)
    run(lambda: carry_out(args), args)
