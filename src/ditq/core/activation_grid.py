"""The grid of a layer's input: what every activation method makes, and what layers compute on.

There is one type of it, asked `at(timesteps)`: static grids answer with the same row at every timestep, calibrated ones
with the row of the nearest calibrated timestep, others compute their rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int64

from ditq.core import numbers
from ditq.core.errors import UserError
from ditq.core.spec import Spec

Timesteps = Float[np.ndarray, "rows"]


@dataclass(frozen=True, eq=False)
class GridRows:
    """The numbers of a grid, a row per timestep: x / smooth is rounded to scale * code + shift."""

    scale: Float[mx.array, "rows"]
    """Step sizes, never maxima."""
    qmin: Float[mx.array, "rows"]
    qmax: Float[mx.array, "rows"]
    shift: Float[mx.array, "rows channels"] | None = None
    """Centre of the grid: one value a row (channels = 1) or one per input channel; None: zero."""

    @classmethod
    def of(
        cls,
        bits: Sequence[int],
        scale: Float[np.ndarray, "rows"],
        shift: Float[np.ndarray, "rows channels"] | None = None,
    ) -> "GridRows":
        """The rows with these bits, in float32."""
        specs = [Spec(b) for b in bits]
        ends = np.array([[spec.qmin, spec.qmax] for spec in specs], np.float32)
        centre = None if shift is None else mx.array(shift.astype(np.float32))
        return cls(mx.array(scale.astype(np.float32)), mx.array(ends[:, 0]), mx.array(ends[:, 1]), centre)

    @classmethod
    def joined(cls, parts: Sequence["GridRows"]) -> "GridRows":
        """The rows of all parts, whose shifts are alike: of all channels, of one, or none."""
        scale, qmin, qmax = (
            mx.concatenate([getattr(one, name) for one in parts]) for name in ("scale", "qmin", "qmax")
        )
        shifts = [one.shift for one in parts if one.shift is not None]
        return cls(scale, qmin, qmax, mx.concatenate(shifts) if shifts else None)

    def __len__(self) -> int:
        return self.scale.shape[0]

    @property
    def bits(self) -> list[int]:
        """The bits of each row."""
        return [round(b) for b in np.log2(np.array(self.qmax) - np.array(self.qmin) + 1).tolist()]

    def take(self, rows: Int64[np.ndarray, "wanted"]) -> "GridRows":
        """Some of the rows, in this order."""
        at = mx.array(rows)
        shift = None if self.shift is None else self.shift[at]
        return GridRows(self.scale[at], self.qmin[at], self.qmax[at], shift)

    def check(self, where: str) -> None:
        """Raises UserError, beginning with `where`, for numbers that no grid has.

        Steps are above 0, shifts finite, and the bounds are those of 2 to 8 bits: whole, ordered, 2^bits codes apart,
        and 0 is a code.
        """
        shapes = [array.shape for array in (self.scale, self.qmin, self.qmax)]
        if shapes != [(len(self),)] * 3 or not len(self):
            raise UserError(where, got=f"scale, qmin and qmax of shapes {shapes}", expected="a number a row")
        if self.shift is not None and (self.shift.ndim != 2 or self.shift.shape[0] != len(self)):
            expected = f"({len(self)}, channels)"
            raise UserError(f"{where} shift", got=f"shape {self.shift.shape}", expected=expected)
        numbers.check_positive(self.scale, f"{where} scale")
        if self.shift is not None:
            numbers.check_numbers(self.shift, f"{where} shift")
        low, high = np.asarray(self.qmin), np.asarray(self.qmax)
        levels = high.astype(np.float64) - low + 1
        sound = (
            np.isin(levels, [2**bits for bits in range(2, 9)])
            & (low == np.rint(low))
            & (low <= 0)
            & (high >= 0)
        )
        if not sound.all():
            at = int(np.flatnonzero(~sound)[0])
            got = f"qmin {low[at]:g} and qmax {high[at]:g}"
            raise UserError(f"{where} bounds", got=got, expected="those of 2 to 8 bits, such as -8 and 7")


@runtime_checkable
class ActivationGrid(Protocol):
    """The grid of one layer's input at any timestep."""

    @property
    def smooth(self) -> Float[mx.array, "in"] | None:
        """Channel factors that the weight was multiplied with before it was quantized (SmoothQuant,
        arXiv 2211.10438)."""
        ...

    def at(self, timesteps: Timesteps) -> GridRows:
        """One row for each of these timesteps."""
        ...


@dataclass(frozen=True, eq=False)
class TimestepGrid:
    """A row per calibrated timestep; with a single row, a static grid."""

    timesteps: Float[np.ndarray, "steps"]
    """Of the rows, falling."""
    rows: GridRows
    smooth: Float[mx.array, "in"] | None = None

    def at(self, timesteps: Timesteps) -> GridRows:
        """The rows of the calibrated timesteps nearest to these."""
        return self.rows.take(nearest_rows(self.timesteps, timesteps))


def nearest_rows(calibrated: Timesteps, wanted: Float[np.ndarray, "wanted"]) -> Int64[np.ndarray, "wanted"]:
    """For each timestep the number of the one calibrated nearest to it, the earlier of two equally near."""
    return np.abs(calibrated[None] - wanted[:, None]).argmin(axis=1)
