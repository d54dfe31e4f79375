"""`python -m src.quantize_qronos`: Qronos on the first blocks or all, as the recipe w4a8-qronos has it."""

from ditq.cli.flags import add_recipe
from ditq.cli.parsing import parser
from ditq.cli.quantize import add_quantize_flags, carry_out
from ditq.cli.run import run
from ditq.core.recipe import read_recipe


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and quantizes."""
    flags = parser(
        "Quantize the first N blocks, or all, with Qronos: the recipe w4a8-qronos, or another one.",
        "python -m src.quantize_qronos --blocks 4 --calib calibration_data --out mini-qronos",
    )
    add_recipe(flags, "w4a8-qronos", "a preset, or a recipe's .json file (default: w4a8-qronos)")
    add_quantize_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: carry_out(args, read_recipe(args.recipe)), args)
