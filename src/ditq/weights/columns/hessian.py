"""The second moments of a layer's inputs, gathered batch by batch: all that GPTQ and Qronos know of the data."""

from collections.abc import Iterator, Mapping
from typing import NoReturn

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.core.errors import UserError
from ditq.weights.columns.damping import DampedHessian
from ditq.weights.columns.gram import CrossGram, Gram
from ditq.weights.columns.held_out import HeldOut

CHUNK = 512
"""Rows that are multiplied at once."""
LONG = 200
"""Adjacent rows from which on they are multiplied in place: enough for BLAS to be efficient."""

InputRows = Float32[np.ndarray, "rows in"]
Given = Float[mx.array, "*rows channels"] | Float[np.ndarray, "*rows channels"]
SameRows = Float[mx.array, "*same_rows channels"] | Float[np.ndarray, "*same_rows channels"]
Matrix = Float32[np.ndarray, "out in"]


class Moments:
    """H = X~'X~ and, with two streams, X~'(X - X~) of one input that one or several layers share.

    X (rows, in) is the input in the float model, X~ in the quantized model; they are the same where `add` is given one.
    Float32 on the CPU. Rows are multiplied in place; those of small batches are gathered first. Some are held out: they
    never enter H, and judge the result.

    With `weights` (the layers that share the input, by name), X~'((X - X~)W') is summed in place of X~'(X - X~), where
    that is less work: for layers with many more inputs than outputs. Without `cross` neither is summed: GPTQ asks for
    none.
    """

    def __init__(
        self,
        columns: int,
        name: str = "layer",
        weights: Mapping[str, Matrix] | None = None,
        cross: bool = True,
    ):
        self.columns, self.name, self.cross = columns, name, cross
        self.hessian: DampedHessian
        """X~'X~, a sum over rows, once `finish` was called."""
        self.rows = 0
        """Rows in the sums."""
        self._slices = _side_by_side(weights or {}, columns)
        self._stacked = np.concatenate(list((weights or {}).values())) if self._slices else None
        self._gram, self._cross = Gram(columns), None
        self._short: list[tuple[InputRows, InputRows | None]] = []
        self._held = HeldOut()

    def add(self, inputs: Given, quantized: SameRows | None = None, held_out: bool | None = None) -> None:
        """Takes the rows of one batch: of the float model and, if it differs, of the quantized model.

        `held_out` says whether these rows are held out, all or none; None: some of them are, evenly spread. Raises
        UserError, with the layer's name, when a shape does not fit or a value that is used is not finite; GPTQ uses
        the float model's inputs of held-out rows alone.
        """
        x = self._as_rows(inputs, "inputs")
        xq = None if quantized is None else self._as_rows(quantized, "quantized inputs")
        if xq is not None and xq.shape != x.shape:
            raise UserError(f"{self.name}: quantized inputs", got=f"{len(xq)} rows", expected=f"{len(x)}")
        rest, back = self._held.take((x, xq), held_out)
        for earlier in back:
            self._sum(*earlier, np.ones(len(earlier[0]), bool))
        self._sum(x, xq, rest)
        self._check(x, xq, ~rest)

    def finish(self) -> "Moments":
        """Itself, all rows summed, and no more to come. Raises UserError for no rows, and where H overflows."""
        if not self._held.seen:
            raise UserError(f"{self.name}: calibration", got="no rows", expected="at least one")
        self._sum_short()
        if not self._gram.is_finite():
            self._refuse("inputs")
        self.hessian = DampedHessian(self._gram.whole())
        # A factor will take the sum's memory: rows that came later must fail, not be lost
        del self._gram, self._short
        return self

    def held_out(self) -> tuple[InputRows, InputRows]:
        """The held-out rows, of the float and of the quantized model, one array where these are the same."""
        return self._held.rows()

    def few(self) -> tuple[InputRows, InputRows | None] | None:
        """All rows (None: the streams were the same), where they are too few to hold some out; else None."""
        return self._held.few()

    def correction(
        self, weight: Matrix, layer: str = "", outputs: slice = slice(None)
    ) -> Float32[np.ndarray, "in some"] | None:
        """X~'(X - X~)W', what Qronos moves the weight by before H is divided out, for some of its outputs; None: the
        streams were the same."""
        if self._cross is None:
            return None
        cross = self._cross.whole()
        return cross[:, self._slices[layer]][:, outputs] if self._slices else cross @ weight[outputs].T

    @property
    def diagonal(self) -> Float32[np.ndarray, "in"]:
        """The sum of squares of each input channel."""
        return self.hessian.diagonal

    def _as_rows(self, given: mx.array | np.ndarray, what: str) -> InputRows:
        if given.shape[-1] != self.columns:
            raise UserError(f"{self.name}: {what}", got=f"{given.shape[-1]} channels", expected=self.columns)
        given = given.astype(mx.float32) if isinstance(given, mx.array) else given
        return np.asarray(given, dtype=np.float32).reshape(-1, self.columns)

    def _check(self, x: InputRows, xq: InputRows | None, held: np.ndarray) -> None:
        """Raises UserError where a value of a batch that was used is not finite, or its square is not.

        The diagonal of H, a sum of squares, tells it of all rows but those that are held out, those that wait, and the
        float model's.
        """
        waits = len(x) < CHUNK
        summed, what = (x, "inputs") if xq is None else (xq, "quantized inputs")
        if xq is not None and not _finite(x if self.cross else x[held]):
            self._refuse("inputs", x)
        if not (self._gram.is_finite() and _finite(summed if waits else summed[held])):
            self._refuse(what, summed)

    def _refuse(self, what: str, batch: InputRows | None = None) -> NoReturn:
        """Raises UserError for values that are not finite; without a batch, or where it has none, for large ones."""
        bad = 0 if batch is None else int((~np.isfinite(batch).all(axis=1)).sum())
        raise UserError(
            f"{self.name}: calibration {what}",
            got=f"{bad} of {len(batch)} rows with NaN or infinity"
            if batch is not None and bad
            else "values whose squares overflow float32",
            expected="finite numbers",
            remedy="compute the activations in float32 or bfloat16, or leave these samples out",
        )

    def _sum(self, x: InputRows, xq: InputRows | None, which: np.ndarray) -> None:
        """Adds the rows `which` to the sums; those of a small batch wait until there are enough."""
        small = len(which) < CHUNK
        for run in _runs(which):
            rows = (x if xq is None else xq)[run]
            other = x[run] if self.cross and xq is not None else None
            if len(rows) >= LONG:
                self._multiply(rows, other)
                continue
            if small:  # its owner may write over it meanwhile
                rows, other = rows.copy(), None if other is None else other.copy()
            self._short.append((rows, other))
            if sum(len(rows) for rows, _ in self._short) >= CHUNK:
                self._sum_short()
        if not small:
            self._sum_short()

    def _sum_short(self) -> None:
        if self._short:
            rows = np.concatenate([rows for rows, _ in self._short])
            alike = all(x is None for _, x in self._short)
            self._multiply(
                rows, None if alike else np.concatenate([rows if x is None else x for rows, x in self._short])
            )
        self._short = []

    def _multiply(self, rows: InputRows, x: InputRows | None) -> None:
        """Adds rows of the quantized model, with those of the float model where they differ, to the sums."""
        self._gram.add(rows)
        self.rows += len(rows)
        if x is None:
            return
        change = x - rows
        right = change if self._stacked is None else change @ self._stacked.T
        self._cross = self._cross or CrossGram(self.columns, right.shape[1])
        self._cross.add(rows, right)


def _finite(rows: InputRows) -> bool:
    """Whether all values and the sum of their squares are finite, in one pass."""
    return bool(np.isfinite(np.vdot(rows, rows)))


def _runs(which: np.ndarray) -> Iterator[slice]:
    """The rows `which`, those that stand together, `CHUNK` at a time at most."""
    edges = np.flatnonzero(np.diff(which, prepend=False, append=False))
    for start, end in edges.reshape(-1, 2).tolist():
        for first in range(start, end, CHUNK):
            yield slice(first, min(first + CHUNK, end))


def _side_by_side(weights: Mapping[str, Matrix], columns: int) -> dict[str, slice]:
    """Where each layer's outputs stand in the stacked product; empty where X~'(X - X~) costs less."""
    outputs = sum(len(weight) for weight in weights.values())
    if not outputs or 2 * outputs >= columns:
        return {}
    ends = np.cumsum([len(weight) for weight in weights.values()]).tolist()
    return {
        name: slice(end - len(weight), end) for (name, weight), end in zip(weights.items(), ends, strict=True)
    }
