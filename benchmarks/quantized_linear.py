"""One layer of Stable Diffusion 3 Medium: `ditq.nn.QuantizedLinear` against dense and MLX's own quantized layers.

    python benchmarks/quantized_linear.py --out benchmarks/results/quantized_linear.md

float32 throughout: `nn.Linear`; ours with 4-bit weights, a scale per channel, and static 8-bit activations on both
backends (what fc2 receives is shifted per channel); `nn.QuantizedLinear` with 4-bit weights in groups of 64. Each of
the three runs in turns with the dense layer, in one process. On a CPU the two that multiply packed words run at about
2 GFLOP/s, so that each of their cases is run once; `--packed-rows` leaves out their larger ones.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from turns import in_turns, median_ratio

from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import round_to_nearest
from ditq.core.platform import prepare
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedLinear, StepClock

SHAPES = ((1536, 1536), (1536, 6144), (6144, 1536))
ROWS = (64, 333, 1024, 4250)
STEPS = 50
"""Timesteps of the activation tables, whose memory counts."""


@dataclass(frozen=True)
class Timed:
    """A layer's calls in turns with the dense one's."""

    seconds: tuple[list[float], list[float]]
    peak: int

    def told(self) -> str:
        """Milliseconds, and the median ratio to the dense layer's."""
        return f"{1000 * statistics.median(self.seconds[1]):.1f} ({median_ratio(self.seconds):.2f})"


def main() -> None:
    """Runs the comparison and prints, or writes, its tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, help="write the tables to this file as well")
    flags.add_argument("--rounds", type=int, default=7, help="repetitions of each (default: 7)")
    flags.add_argument(
        "--packed-rows",
        type=int,
        default=ROWS[-1],
        help="most rows of packed products on a CPU (default: 4250)",
    )
    args = flags.parse_args()
    tables = compare(args.rounds, args.packed_rows)
    print(tables)
    if args.out:
        args.out.write_text(tables + "\n")


def compare(rounds: int, packed_rows: int) -> str:
    """Both tables: time and working memory per call, and what a layer holds."""
    on_cpu = prepare().device == "cpu"
    times, sizes = [], []
    for columns, out in SHAPES:
        layers = made(columns, out)
        sizes.append([f"{columns} -> {out}", *(f"{held(layer) / 1e6:.2f}" for layer in layers.values())])
        for rows in ROWS:
            x = mx.random.normal((rows, columns))
            mx.eval(x)
            calls: dict[str, Callable] = {
                name: (lambda layer=layer, x=x: mx.eval(layer(x))) for name, layer in layers.items()
            }
            dense = calls.pop("dense")
            cells, peaks = [], [peak_memory(dense)]
            for name, call in calls.items():
                slow = on_cpu and name != "codes"
                if slow and rows > packed_rows:
                    cells.append("")
                    peaks.append(0)
                    continue
                timed = in_turns(dense, call, 1 if slow else rounds, warm_up=not slow)
                peaks.append(0 if slow else peak_memory(call))
                cells.append(Timed(timed, peaks[-1]).told())
                if name == "codes":
                    own = f"{1000 * statistics.median(timed[0]):.1f}"
            memory = [f"{peak / 1e6:.1f}" for peak in peaks[:2]]
            times.append([f"{columns} -> {out}", str(rows), own, *cells, *memory])
            print(" | ".join(times[-1]), flush=True)
    return told(times, sizes, rounds)


def made(columns: int, out: int) -> dict[str, nn.Module]:
    """The four layers, of the same random weight and bias."""
    mx.random.seed(0)
    dense = nn.Linear(columns, out)
    spec = Spec(4)
    weight = QuantizedWeight(*round_to_nearest(dense.weight, spec), spec)
    rng = np.random.default_rng(0)
    shift = mx.array(rng.normal(0, 0.2, (STEPS, columns)).astype(np.float32)) if columns > out else None
    timesteps = np.linspace(1000, 20, STEPS)
    rows = GridRows(mx.full((STEPS,), 0.03), mx.full((STEPS,), -128.0), mx.full((STEPS,), 127.0), shift)
    grid = TimestepGrid(timesteps, rows)
    layers: dict[str, nn.Module] = {"dense": dense}
    for backend in ("codes", "packed"):
        clock = StepClock()
        layers[backend] = QuantizedLinear(weight, dense.bias, grid, clock, backend)
        clock.follow(timesteps)
        clock.set(STEPS // 2)
    layers["mlx"] = nn.QuantizedLinear.from_linear(dense, 64, 4)
    for layer in layers.values():
        mx.eval(layer.parameters())
    return layers


def held(layer: nn.Module) -> int:
    """Bytes of a layer, its table of activation grids included."""
    clock = getattr(layer, "_clock", None)
    table = 0 if clock is None else STEPS * clock.state[0].nbytes
    return sum(array.nbytes for _, array in tree_flatten(layer.parameters())) + table


def told(times: list[list[str]], sizes: list[list[str]], rounds: int) -> str:
    """The tables as Markdown."""
    device = prepare().device
    packed = "once" if device == "cpu" else f"medians of {rounds}"
    lines = [
        "# A quantized layer against dense and MLX's own",
        "",
        f"`python benchmarks/quantized_linear.py`: float32; MLX {mx.__version__}, {device} ({platform.system()} "
        f"{platform.machine()}, {prepare().blas}), ditq {ditq.__version__}. Milliseconds, medians of {rounds} (packed "
        f"words: {packed}), each in turns with the dense layer; in brackets the ratio to it, below 1: faster. Ours: "
        "4-bit weights with a scale per channel, static 8-bit activations (6144 -> 1536: shifted per channel). MLX's: "
        "4-bit weights in groups of 64, float activations. Peak: working memory of a call beyond the layer's own.",
        "",
        "| layer | rows | dense, ms | ours, codes | ours, packed | nn.QuantizedLinear | peak: dense, MB | codes, MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(f"| {' | '.join(row)} |" for row in times),
        "",
        f"What a layer holds, in MB; ours with its activation table of {STEPS} timesteps:",
        "",
        "| layer | dense | ours, codes | ours, packed | nn.QuantizedLinear |",
        "|---|--:|--:|--:|--:|",
        *(f"| {' | '.join(row)} |" for row in sizes),
    ]
    return "\n".join(lines)


def peak_memory(function: Callable) -> int:
    """Bytes at the peak while `function` runs, above what was held before it."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    function()
    return mx.get_peak_memory() - before


if __name__ == "__main__":
    main()
