"""The 3x3 convolutions of Stable Diffusion 1.5 on packed 4-bit kernels: ways to compute them, against the dense layer.

    python benchmarks/quantized_conv.py --out benchmarks/results/quantized_conv.md

float32 throughout, weights in groups of 64. `unpacked` is what the quantized layers do: the kernel from its codes at
each call, then `mx.conv2d`. `unfolded` unpacks it too, and multiplies it with the patches of all pixels as one matrix
product. `packed` multiplies the patches with MLX's packed words (`mx.quantized_matmul`). `W4A8` is the quantized layer
with static 8-bit activations, unpacked from int8 codes. Each runs in turns with the dense layer, in one process. On a
CPU packed products run at about 2 GFLOP/s: they are timed once, and `--packed-pixels` leaves out the larger ones.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from turns import in_turns, median_ratio

from ditq import capture
from ditq.core import packing
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import round_to_nearest
from ditq.core.platform import prepare
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedConv2d, StepClock, WeightOnlyConv2d

LAYERS = ((64, 320, 320), (32, 640, 640), (16, 1280, 1280), (8, 2560, 1280))
"""Side of the picture, channels in and out: a ResNet's convolutions at 512 x 512 pixels, level by level."""
SPEC = Spec(4, True, 64)
TIMESTEP = np.array([500.0], np.float32)
COLUMNS = ("pixels", "channels", "dense, ms", "unpacked, ms (x dense)", "unfolded", "packed", "W4A8")
COLUMNS += ("float16 kernel, MB", "4-bit kernel, MB", "patches, MB")


def main() -> None:
    """Runs the comparison and prints, or writes, its table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, help="write the table to this file as well")
    flags.add_argument("--rounds", type=int, default=7, help="repetitions of each (default: 7)")
    flags.add_argument(
        "--packed-pixels", type=int, default=256, help="packed products up to this many pixels"
    )
    args = flags.parse_args()
    prepare()
    device = f"{mx.default_device().type.name} ({platform.system()} {platform.machine()})"
    lines = [
        "# Quantized convolutions against the dense layer",
        "",
        f"`python benchmarks/quantized_conv.py`: float32; MLX {mx.__version__}, {device}, ditq {ditq.__version__}; "
        f"4-bit weights in groups of 64, batch 1. Milliseconds, medians of {args.rounds} (packed: once), each in turns "
        "with the dense layer; in brackets the ratio to it. Patches: working memory of the two ways that unfold.",
        "",
    ]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|---|---|{'--:|' * (len(COLUMNS) - 2)}"]
    for layer in LAYERS:
        lines.append(row(*layer, args.rounds, args.packed_pixels))
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text)


def row(side: int, into: int, out: int, rounds: int, packed_pixels: int) -> str:
    """The table's line for a layer."""
    dense = nn.Conv2d(into, out, 3, padding=1)
    x = mx.random.normal((1, side, side, into), key=mx.random.key(0))
    codes = round_to_nearest(capture.matrix(dense), SPEC)
    weight = QuantizedWeight(*codes, SPEC)
    words = packing.pack(*codes, SPEC)
    mx.eval(dense.parameters(), x, words)
    unpacked = WeightOnlyConv2d(weight, dense)
    grid = {"group_size": SPEC.group_size, "bits": SPEC.bits}
    clock, rows = StepClock(), GridRows.of([8], np.array([float(mx.abs(x).max().item()) / 127]), None)
    w4a8 = QuantizedConv2d(weight, dense, TimestepGrid(TIMESTEP, rows), clock, "codes")
    clock.follow(TIMESTEP)
    clock.set(0)

    def unfolded(x: mx.array) -> mx.array:
        return capture.patches(dense, x) @ mx.dequantize(*words, **grid).T + dense.bias

    def packed(x: mx.array) -> mx.array:
        rows = capture.patches(dense, x).reshape(-1, 9 * into)
        return mx.quantized_matmul(rows, *words, **grid).reshape(1, side, side, out) + dense.bias

    wanted = unpacked(x)
    told, times = [], []
    for way in (unpacked, unfolded, packed, w4a8):
        if way is packed and side**2 > packed_pixels:
            told.append("not run")
            continue
        apart = mx.abs(way(x) - wanted).max().item()
        assert apart < (0.1 if way is w4a8 else 1e-3), f"{way}: {apart} apart"
        times.append(in_turns(timed(dense, x), timed(way, x), 1 if way is packed else rounds))
        told.append(f"{1000 * statistics.median(times[-1][1]):.1f} ({median_ratio(times[-1]):.2f})")
    size = dense.weight.size
    bits = packing.bits_per_weight(SPEC.bits, 64, 16)
    memory = f"{2 * size / 1e6:.1f} | {bits * size / 8e6:.1f} | {4 * 9 * into * side**2 / 1e6:.0f}"
    first = f"{1000 * statistics.median(times[0][0]):.1f}"
    return f"| {side} x {side} | {into} to {out} | {first} | {' | '.join(told)} | {memory} |"


def timed(layer: Callable[[mx.array], mx.array], x: mx.array) -> Callable[[], object]:
    """One evaluated call."""
    return lambda: mx.eval(layer(x))


if __name__ == "__main__":
    main()
