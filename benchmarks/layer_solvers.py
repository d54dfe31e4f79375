"""Layer solvers against those of Brevitas, llm-compressor and mlx-lm: the same data, grid and machine, in one run.

    python -m pip install --editable . -r benchmarks/requirements-peers.txt
    OMP_NUM_THREADS=1 python benchmarks/layer_solvers.py --shape 1536x1536 --rows 4096

Make an environment of its own for it. Each run adds its case to benchmarks/results/layer_solvers.json and writes
docs/results/layer_solvers.md from all cases that are there. With one thread CPU seconds mean the same to all: threads
that wait for each other spin.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import layer_tables
import numpy as np

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import layer_peers
import mlx.core as mx
import torch

from ditq.core import affine
from ditq.core.platform import prepare
from ditq.core.spec import Spec
from ditq.weights import solve

RESULTS = Path(__file__).parent / "results" / "layer_solvers.json"
TEST_ROWS = 2048
ROUNDING = "rounding"
SLOW, FEW = 6, 3
"""Solvers that take more than so many times as long as the quickest run in so many rounds alone."""
GRIDS = {"row": Spec(4), "group": Spec(4, symmetric=False, group_size=64)}


def main() -> None:
    """Runs one case on both grids, and writes the tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument(
        "--shape", default="1536x1536", help="inputs x outputs of the layer (default: 1536x1536)"
    )
    flags.add_argument("--rows", type=int, default=4096, help="calibration rows (default: 4096)")
    flags.add_argument("--rounds", type=int, default=3, help="timed repetitions, in turns (default: 3)")
    flags.add_argument("--grid", choices=GRIDS, help="only this grid")
    flags.add_argument("--ours", action="store_true", help="leave the other libraries out, and write nothing")
    args = flags.parse_args()
    columns, out = map(int, args.shape.split("x"))
    for grid in [args.grid] if args.grid else GRIDS:
        cases = run(out, columns, args.rows, grid, args.rounds, not args.ours)
        for case in cases:
            seconds, cpu = statistics.median(case["seconds"]), statistics.median(case["cpu"])
            print(
                f"{grid:6} {case['method']:32} {case['error']:.4f} {seconds:8.2f} s {cpu:8.2f} s of CPU",
                flush=True,
            )
        if not args.ours:
            save(f"{args.shape} {args.rows} {grid}", cases)


def run(out: int, columns: int, rows: int, grid: str, rounds: int, peers: bool) -> list[dict]:
    """Error on rows that no solver saw, and the seconds of each round, for every solver on one grid."""
    W, X, Xq = layer(out, columns, rows + TEST_ROWS)
    unseen = X[rows:], Xq[rows:]
    solvers = ours(GRIDS[grid]) | (
        (layer_peers.per_row() if grid == "row" else layer_peers.per_group()) if peers else {}
    )
    results = {name: {"method": name, "seconds": [], "cpu": []} for name in solvers}
    for solver in solvers.values():
        solver(W[:64, :256], X[:512, :256], Xq[:512, :256])  # what is imported and compiled once
    for number in range(rounds):
        if number == FEW:
            first = {name: results[name]["seconds"][0] for name in solvers}
            quickest = min(first[name] for name in solvers if name != ROUNDING)
            solvers = {name: one for name, one in solvers.items() if first[name] <= SLOW * quickest}
        for name, solver in solvers.items():
            started, cpu = time.perf_counter(), time.process_time()
            values = solver(W, X[:rows], Xq[:rows])
            results[name]["seconds"].append(time.perf_counter() - started)
            results[name]["cpu"].append(time.process_time() - cpu)
            results[name]["error"] = error(W, values, *unseen)
    for result in results.values():
        result["seconds"], result["cpu"] = (
            [round(one, 4) for one in result[what]] for what in ("seconds", "cpu")
        )
    return list(results.values())


def ours(spec: Spec) -> dict[str, Callable]:
    """Rounding and ditq's solvers: with the peers' choices (min-max range, one damping), and as they come."""

    def by(**settings) -> Callable:
        grid = {"bits": spec.bits, "group_size": spec.group_size, "symmetric": spec.symmetric}
        return lambda W, X, Xq: solve(W, X, Xq, **grid, **settings)[0].values()

    def rounding(W: np.ndarray, X: np.ndarray, Xq: np.ndarray) -> np.ndarray:
        codes, scale, zero = affine.round_to_nearest(mx.array(W), spec)
        return np.array(affine.dequantize(codes, scale, zero))

    return {
        ROUNDING: rounding,
        "ditq Qronos, min-max": by(method="qronos", search=False),
        "ditq Qronos": by(method="qronos"),
        "ditq GPTQ, min-max, damping 0.01": by(method="gptq", damping=0.01, search=False),
        "ditq GPTQ": by(method="gptq"),
    }


def layer(out: int, columns: int, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight, correlated inputs with outlier channels, and the inputs that a quantized model would make of them.

    The quantized inputs carry an error that follows the inputs (layers before it), noise, and an 8-bit grid.
    """
    rng = np.random.default_rng(seed)
    rank = columns // 8
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    mix = draw(rank, columns) / np.sqrt(rank, dtype=np.float32)
    size = np.exp(0.5 * draw(columns))
    size[rng.permutation(columns)[: columns // 100]] *= 10
    hidden = draw(rows, rank)
    X = (hidden @ mix + 0.5 * draw(rows, columns)) * size
    upstream = hidden @ (0.1 * draw(rank, rank) / np.sqrt(rank, dtype=np.float32))
    Xq = X + (upstream @ mix + 0.05 * draw(rows, columns)) * size
    step = np.abs(Xq).max() / 127
    return draw(out, columns) / np.sqrt(columns, dtype=np.float32), X, np.rint(Xq / step) * step


def error(W: np.ndarray, values: np.ndarray, X: np.ndarray, Xq: np.ndarray) -> float:
    """|X W' - Xq Q'| / |X W'|, Frobenius norms."""
    target = X @ W.T
    return float(np.linalg.norm(target - Xq @ values.T) / np.linalg.norm(target))


def save(case: str, results: list[dict]) -> None:
    """Adds a case to the results, and writes the page."""
    import brevitas
    import compressed_tensors
    import llmcompressor
    import mlx_lm

    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    versions = {
        module.__name__: str(module.__version__)
        for module in (ditq, mx, torch, brevitas, llmcompressor, compressed_tensors, mlx_lm, np)
        if hasattr(module, "__version__")
    }
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    machine = f"{platform.system()} {platform.machine()}, {threads} of {cores} cores, {prepare().blas}"
    known[case] = {"results": results, "machine": machine, "versions": versions}
    lines = (f"{json.dumps(name)}: {json.dumps(one)}" for name, one in known.items())
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    layer_tables.write(known)


if __name__ == "__main__":
    main()
