"""The grid of a layer's input: what every activation method makes, and what layers compute on.

There is one type of it, asked `at(timesteps)`: static grids answer with the same row at every timestep, calibrated ones
with the row of the nearest calibrated timestep, others compute their rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int64

from ditq.core import affine, numbers
from ditq.core.errors import UserError
from ditq.core.spec import Spec

Timesteps = Float[np.ndarray, "rows"]
KINDS = {"dual-scale": "0.1.0", "per-token": "0.1.0"}
"""The kinds of grids that are more than step, bounds and shift; each with the first version of ditq that reads it."""
PARTS = ("scale", "qmin", "qmax", "shift", "below", "per_token")
"""The arrays of `GridRows`; the first three are always there."""
FARTHEST = 16
"""Octaves between the steps of the two half-lines at most."""


@dataclass(frozen=True, eq=False)
class GridRows:
    """The numbers of a grid, a row per timestep: x / smooth is rounded to scale * code + shift."""

    scale: Float[mx.array, "rows"]
    """Step sizes, never maxima."""
    qmin: Float[mx.array, "rows"]
    qmax: Float[mx.array, "rows"]
    shift: Float[mx.array, "rows channels"] | None = None
    """Centre of the grid: one value a row (channels = 1) or one per input channel; None: zero."""
    below: Float[mx.array, "rows"] | None = None
    """The step below zero as a part of `scale`, a power of two (DualScale, arXiv 2507.14811); None: the same step."""
    per_token: Float[mx.array, "rows"] | None = None
    """The part of each token's own greatest |x| that the grid reaches, found when the layer runs; `scale` is 1 then.
    In a convolution, each picture's. None: the step is `scale`."""

    @classmethod
    def of(
        cls,
        bits: Sequence[int],
        scale: Float[np.ndarray, "rows"],
        shift: Float[np.ndarray, "rows channels"] | None = None,
        below: Float[np.ndarray, "rows"] | None = None,
        per_token: Float[np.ndarray, "rows"] | None = None,
    ) -> "GridRows":
        """The rows with these bits, in float32."""
        specs = [Spec(b) for b in bits]
        ends = np.array([[spec.qmin, spec.qmax] for spec in specs], np.float32)
        given = (
            None if one is None else mx.array(one.astype(np.float32)) for one in (shift, below, per_token)
        )
        return cls(mx.array(scale.astype(np.float32)), mx.array(ends[:, 0]), mx.array(ends[:, 1]), *given)

    @classmethod
    def joined(cls, parts: Sequence["GridRows"]) -> "GridRows":
        """The rows of all parts, which are alike: the same arrays, shifts of all channels or of one."""
        return cls(**{name: mx.concatenate([one.arrays[name] for one in parts]) for name in parts[0].arrays})

    def __len__(self) -> int:
        return self.scale.shape[0]

    @property
    def arrays(self) -> dict[str, mx.array]:
        """The `PARTS` that are there, by name."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: array for name, array in found.items() if array is not None}

    @property
    def kind(self) -> Literal["dual-scale", "per-token"] | None:
        """What the rows are of `KINDS`; None for step, bounds and shift alone."""
        if self.per_token is not None:
            return "per-token"
        return None if self.below is None else "dual-scale"

    def step(self, row: int, x: Float[mx.array, "..."], axes: tuple[int, ...] = (-1,)) -> mx.array:
        """The step of x on this row, which on a grid per token x itself decides, over these axes."""
        if self.per_token is None:
            return self.scale[row]
        return self.per_token[row] * affine.widest_step(x, self.qmax[row], axes)

    @property
    def bits(self) -> list[int]:
        """The bits of each row."""
        return [round(b) for b in np.log2(np.array(self.qmax) - np.array(self.qmin) + 1).tolist()]

    def take(self, rows: Int64[np.ndarray, "wanted"]) -> "GridRows":
        """Some of the rows, in this order."""
        at = mx.array(rows)
        return GridRows(**{name: array[at] for name, array in self.arrays.items()})

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
        self._check_kind(where)
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

    def _check_kind(self, where: str) -> None:
        """Raises UserError for a kind of grid that is not whole, or is mixed with another one."""
        if self.kind is None:
            return
        both = self.below is not None and self.per_token is not None
        if both or self.shift is not None:
            others = "steps per token" if both else "a shift"
            raise UserError(where, got=f"a {self.kind} grid with {others}", expected="one or the other")
        for name in ("below", "per_token"):
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != (len(self),):
                raise UserError(f"{where} {name}", got=f"shape {array.shape}", expected="a number a row")
            numbers.check_positive(array, f"{where} {name}")
        if self.below is not None:
            octaves = np.log2(np.array(self.below, np.float64))
            if (octaves != np.rint(octaves)).any() or np.abs(octaves).max() > FARTHEST:
                expected = f"powers of two from 2^-{FARTHEST} to 2^{FARTHEST}"
                raise UserError(f"{where} below", got=f"{np.array(self.below).tolist()}", expected=expected)
        if self.per_token is not None and float(np.array(self.per_token).max()) > 1:
            got = f"{float(np.array(self.per_token).max()):g}"
            raise UserError(f"{where} per_token", got=got, expected="parts of the greatest |x|, up to 1")


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


def check_kinds(kinds: Mapping[str, str], where: str) -> None:
    """Raises UserError, beginning with `where`, for a kind of grid that this version does not read.

    `kinds` are those that a file says it holds, each with the first version that reads it.
    """
    unknown = {kind: version for kind, version in kinds.items() if kind not in KINDS}
    if unknown:
        kind, version = next(iter(unknown.items()))
        expected = f"{', '.join(KINDS)}, or none of these"
        raise UserError(
            where, got=repr(kind), expected=expected, remedy=f"use ditq {version} or a later version"
        )


def kinds_of(grids: Iterable[GridRows]) -> dict[str, str]:
    """The kinds of these rows, as files name them for `check_kinds`."""
    there = {rows.kind for rows in grids}
    return {kind: version for kind, version in KINDS.items() if kind in there}
