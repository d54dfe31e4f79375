"""`scripts/02_quantize_model.py`: the GPTQ baseline's second step; one method on one grid for all blocks."""

import argparse

from ditq.cli.flags import add_asymmetric, add_group_size, add_numbers, group_size
from ditq.cli.parsing import parser
from ditq.cli.quantize import add_quantize_flags, carry_out
from ditq.cli.run import run
from ditq.core.recipe import Recipe, plain_recipe
from ditq.core.spec import Spec
from ditq.weights import METHODS


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and quantizes."""
    flags = parser(
        "Quantize the transformer's blocks: step 2 of the GPTQ baseline.",
        "python scripts/02_quantize_model.py --calibration_data ./calibration_data --wbits 4 --abits 8 "
        "--output_dir ./quantized_model",
    )
    numbers = {
        "--wbits": (4, "bits of the weights, 2 to 8"),
        "--abits": (8, "bits of the activations, 2 to 8, or 16 to leave them as they are"),
    }
    add_numbers(flags, numbers)
    flags.add_argument("--method", default="gptq", choices=list(METHODS), help="default: gptq")
    add_group_size(flags)
    add_asymmetric(flags)
    add_quantize_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: carry_out(args, recipe_from_flags(args)), args)


def recipe_from_flags(args: argparse.Namespace) -> Recipe:
    """The recipe that the flags stand for."""
    spec = Spec(args.wbits, not args.asymmetric, group_size(args))
    activations = None if args.abits == 16 else {"bits": args.abits}
    name = f"w{args.wbits}a{args.abits}-{args.method}"
    return plain_recipe(name, args.method, spec, activations=activations)
