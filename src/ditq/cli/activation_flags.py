"""The flags of analyze_activations that describe an activation method, and the method that they describe."""

import argparse

from ditq.activations import ByError, ByTier, Fixed, PerTimestep, Smoothing, Static, Tiers
from ditq.activations.smooth import POLICIES
from ditq.cli import values
from ditq.cli.flags import add_count, add_numbers
from ditq.cli.parsing import without_effect
from ditq.core.errors import UserError
from ditq.core.spec import Spec


def add_bit_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the choice of bits."""
    group = flags.add_argument_group("bits")
    group.add_argument(
        "--objective",
        choices=["tiers", "error"],
        default="tiers",
        help="by the size of the values, or the least output error under a budget (default: tiers)",
    )
    group.add_argument(
        "--average-bits",
        type=values.number("--average-bits"),
        metavar="B",
        help=f"the budget (default: {ByError.average_bits:g})",
    )
    add_count(group, "--bits", "the same for all, in place of an objective")
    limits = {
        "--a4-below": (Tiers.a4_below, "A4 where the range is below this"),
        "--a4-below-shifted": (Tiers.a4_below_shifted, "the same for post-GELU inputs, around their shift"),
        "--a6-below": (Tiers.a6_below, "A6 from there to below this, A8 beyond"),
        "--tail-from": (Tiers.tail_from, "A8 where p99/p50 of |x| reaches this"),
    }
    add_numbers(group, limits, float)


def add_grid_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the choice of grids and of channel factors."""
    group = flags.add_argument_group("grids and channel factors")
    group.add_argument(
        "--scale",
        choices=["mse", "max"],
        default="mse",
        help="least output error, or the full range (default: mse)",
    )
    group.add_argument(
        "--timesteps",
        choices=["each", "one"],
        default="each",
        help="a grid for each timestep, or one that serves all (default: each)",
    )
    gains = {
        "--time-gain": (
            PerTimestep.time_gain,
            "part of the error that grids per timestep must save, or one serves all",
        ),
        "--norm": (PerTimestep.norm, "grids minimise |error|^X; 2: the mean square"),
        "--shift-gain": (PerTimestep.shift_gain, "part of the error that a shift must save"),
    }
    add_numbers(group, gains, float)
    group.add_argument(
        "--smooth",
        choices=POLICIES,
        default="foldable",
        help="factors where adaLN can take the division in, none, or all layers (default: foldable)",
    )
    spikes = {
        "--spike-from": (Smoothing.spike_from, "p100/p99 of |x| of an isolated spike"),
        "--spike-channels": (Smoothing.rarer_than, "part of the channels that may spike"),
    }
    add_numbers(group, spikes, float)
    add_numbers(group, {"--bits-w": (4, "bits of the weights, for the gate")})
    group.add_argument(
        "--group-size",
        type=values.whole("--group-size"),
        metavar="N",
        help="group of the weights (default: per channel)",
    )


def method_from(args: argparse.Namespace) -> Static | PerTimestep:
    """The method that the flags describe. Raises UserError for flags that exclude each other."""
    if args.bits is not None and args.objective == "error":
        raise UserError("--bits", got="with --objective error", remedy="give one of them")
    if args.average_bits is not None and args.objective != "error":
        raise UserError(
            "--average-bits", got=f"with --objective {args.objective}", remedy="add --objective error"
        )
    limits = ("a4_below", "a4_below_shifted", "a6_below", "tail_from")
    if args.bits is not None or args.objective == "error":
        without_effect(args, f"with {'--bits' if args.bits is not None else '--objective error'}", *limits)
    if args.bits is not None:
        without_effect(args, "with --bits", "objective")
    if args.timesteps == "one":
        without_effect(args, "with --timesteps one", "time_gain")
    if args.scale == "max":
        without_effect(args, "with --scale max", "norm")
    if args.smooth == "none":
        own = ("spike_from", "spike_channels", "bits_w", "group_size", "model_path")
        without_effect(args, "with --smooth none", *own)
    tiers = Tiers(args.a4_below, args.a4_below_shifted, args.a6_below, args.tail_from)
    bits = ByTier(tiers)
    if args.bits is not None:
        bits = Fixed(args.bits)
    elif args.objective == "error":
        bits = ByError(ByError.average_bits if args.average_bits is None else args.average_bits)
    spec = Spec(args.bits_w, group_size=args.group_size)
    smoothing = Smoothing(args.smooth, args.spike_from, args.spike_channels, spec)
    if not args.norm >= 1:
        raise UserError("--norm", got=args.norm, expected="at least 1")
    common = bits, args.scale, args.norm, smoothing, args.shift_gain
    return Static(*common) if args.timesteps == "one" else PerTimestep(*common, time_gain=args.time_gain)
