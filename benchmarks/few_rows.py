"""GPTQ and Qronos with few calibration rows, against rounding to nearest, on rows that nothing was fitted on.

    OMP_NUM_THREADS=1 python benchmarks/few_rows.py

Prints the table of docs/methods.md: 72 random layers per number of rows, each solved twice: judged by the rows that it
is fitted to, and as ditq does it, by cross-validation. Errors are norms on 400 fresh rows, as parts of the error of
rounding to the same grid.
"""

import argparse
from collections.abc import Iterator
from unittest.mock import patch

import ditq  # noqa: F401  before mlx: loads a fast BLAS on Linux

# isort: split
import numpy as np

from ditq.weights import solve

ROWS = (5, 12, 16, 17, 24, 34, 64, 128)
FRESH, OUTPUTS = 400, 64


def main() -> None:
    """Prints the table's head, then a line per number of rows as soon as it is known."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="numbers of rows")
    print(
        "| rows | judged by its own rows: worse than rounding | mean | worst | cross-validated: worse | mean | worst |"
    )
    print("|---|---|---|---|---|---|---|")
    for rows in flags.parse_args().rows:
        with patch("ditq.weights.columns.layer.cross_validated", lambda *args: None):
            before = summary(rows)
        print(f"| {rows} | {before} | {summary(rows)} |", flush=True)


def summary(rows: int) -> str:
    """The share of layers that are worse than rounding, and the mean and the worst part of its error."""
    parts = np.array([part_of_rounding(*layer) for layer in layers(rows)])
    return f"{(parts > 1.0001).mean():.0%} | {parts.mean():.2f} | {parts.max():.2f}"


def layers(rows: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, int, int | None]]:
    """Method, weight, inputs and quantized inputs of `rows` and `FRESH` rows, `rows` and group size of each layer."""
    for kind in ("independent", "correlated", "outliers"):
        for method in ("gptq", "qronos"):
            for columns in (64, 96, 192):
                for seed in range(4):
                    rng = np.random.default_rng(100 * seed + rows)
                    weight = rng.standard_normal((OUTPUTS, columns), dtype=np.float32)
                    x = inputs(kind, rng, rows + FRESH, columns)
                    noise = 0.05 * x.std() * rng.standard_normal(x.shape, dtype=np.float32)
                    yield (
                        method,
                        weight,
                        x,
                        x + noise if method == "qronos" else x,
                        rows,
                        (32, None)[seed % 2],
                    )


def inputs(kind: str, rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Rows of channels: independent, correlated by a falling spectrum, or a ninth of them 8 times as wide."""
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    if kind == "correlated":
        axes, _ = np.linalg.qr(rng.standard_normal((columns, columns)))
        mix = (axes * np.exp(-8 * np.arange(columns) / columns)) @ axes.T + 0.05 * np.eye(columns)
        return (x @ mix).astype(np.float32)
    if kind == "outliers":
        x[:, ::9] *= 8
    return x


def part_of_rounding(
    method: str, weight: np.ndarray, x: np.ndarray, xq: np.ndarray, rows: int, group_size: int | None
) -> float:
    """The solution's error on the fresh rows, by that of the weight rounded to the solution's grid."""
    given = xq[:rows] if method == "qronos" else None
    found, _ = solve(weight, x[:rows], given, bits=4, group_size=group_size, method=method)
    repeats = weight.shape[1] // found.scales.shape[1]
    scale, zero = (np.repeat(part, repeats, axis=1) for part in (found.scales, found.zeros))
    nearest = (np.clip(np.rint(weight / scale) + zero, -8, 7) - zero) * scale
    target = x[rows:] @ weight.T
    errors = [np.linalg.norm(target - xq[rows:] @ values.T) for values in (found.values(), nearest)]
    return float(errors[0] / errors[1])


if __name__ == "__main__":
    main()
