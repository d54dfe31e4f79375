"""The second moments of a layer's inputs, gathered as they stream by: all that GPTQ and Qronos know of the data."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.core.errors import UserError

HELD_OUT_EVERY = 17
"""One row in so many is held out; a prime, so that the rows walk through all tokens of a picture."""
HELD_OUT_MOST = 1024
"""Held-out rows that are kept; when there are more, every second one joins the rest."""
LEAST_CHUNK = 1024

Rows = Float32[np.ndarray, "rows in"]
Some = Float32[np.ndarray, "some in"]
Given = Float[mx.array, "*rows channels"] | Float[np.ndarray, "*rows channels"]
SameRows = Float[mx.array, "*same_rows channels"] | Float[np.ndarray, "*same_rows channels"]
Matrix = Float32[np.ndarray, "out in"]


class Moments:
    """H = X~'X~ and, with two streams, X~'(X - X~) of one input that one or several layers share.

    X (rows, in) is the input in the float model, X~ in the quantized model; they are the same where `add` is given one.
    Float32 on the CPU, in NumPy: its X'X is one triangle (syrk), half the work of a product. Rows are gathered into
    large chunks first. One row in `HELD_OUT_EVERY` is kept aside, never enters H, and judges the results.

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
        self.hessian = np.zeros((columns, columns), np.float32)
        """X~'X~, a sum over rows."""
        self.rows = 0
        """Rows in the sums, once `finish` was called."""
        self.judged_apart = True
        """Whether the held-out rows stand outside the sums."""
        self._cross: np.ndarray | None = None
        self._slices = _side_by_side(weights or {}, columns)
        self._stacked = np.concatenate(list((weights or {}).values())) if self._slices else None
        self._waiting: list[tuple[Rows, Rows | None]] = []
        self._held: list[tuple[Rows, Rows | None]] = []
        self._seen, self._stride, self._told_apart = 0, HELD_OUT_EVERY, False

    def add(self, inputs: Given, quantized: SameRows | None = None, judges: bool | None = None) -> None:
        """Takes the rows of one batch: of the float model and, if it differs, of the quantized model.

        `judges` says whether these rows are held out, all or none; None: some of them are, evenly spread. Raises
        UserError, with the layer's name, when a value is not finite or a shape does not fit.
        """
        x = self._checked(inputs, "inputs")
        xq = None if quantized is None else self._checked(quantized, "quantized inputs")
        if xq is not None and xq.shape != x.shape:
            raise UserError(f"{self.name}: quantized inputs", got=f"{len(xq)} rows", expected=f"{len(x)}")
        held = np.arange(self._seen, self._seen + len(x)) % self._stride == self._stride - 1
        if judges is not None:
            held, self._told_apart = np.full(len(x), judges), True
        self._seen += len(x)
        self._waiting.append(_taken(x, xq, ~held))
        self._held.append(_taken(x, xq, held))
        if not self._told_apart and sum(len(rows) for rows, _ in self._held) > HELD_OUT_MOST:
            self._thin_out()
        if sum(len(rows) for rows, _ in self._waiting) >= max(LEAST_CHUNK, self.columns):
            self._flush()

    def finish(self) -> "Moments":
        """Itself, all rows summed; rows too few to hold any out judge as well. Raises UserError for no rows."""
        if not self._seen:
            raise UserError(f"{self.name}: calibration", got="no rows", expected="at least one")
        self.judged_apart = self._told_apart or self._seen >= HELD_OUT_EVERY
        if not self.judged_apart:
            self._held = [*self._waiting]
        self._flush()
        return self

    def held_out(self) -> tuple[Rows, Rows]:
        """The rows that judge, of the float and of the quantized model; after `finish`."""
        floats = [x for x, _ in self._held]
        quantized = [x if xq is None else xq for x, xq in self._held]
        return np.concatenate(floats), np.concatenate(quantized)

    def correction(self, weight: Matrix, layer: str = "") -> Float32[np.ndarray, "in out"] | None:
        """X~'(X - X~)W', what Qronos moves the weight by before H is divided out; None: the streams were the same."""
        if self._cross is None:
            return None
        return self._cross[:, self._slices[layer]] if self._slices else self._cross @ weight.T

    @property
    def diagonal(self) -> Float32[np.ndarray, "in"]:
        """The sum of squares of each input channel."""
        return np.diagonal(self.hessian)

    def _checked(self, given: mx.array | np.ndarray, what: str) -> Rows:
        if given.shape[-1] != self.columns:
            raise UserError(f"{self.name}: {what}", got=f"{given.shape[-1]} channels", expected=self.columns)
        given = given.astype(mx.float32) if isinstance(given, mx.array) else given
        x = np.asarray(given, dtype=np.float32).reshape(-1, self.columns)
        # One pass: the sum of squares is not finite when a value is not, or when float32 could not hold H
        if not np.isfinite(np.vdot(x, x)):
            bad = int((~np.isfinite(x).all(axis=1)).sum())
            got = (
                f"{bad} of {len(x)} rows with NaN or infinity"
                if bad
                else "values whose squares overflow float32"
            )
            remedy = "compute the activations in float32 or bfloat16, or leave these samples out"
            raise UserError(
                f"{self.name}: calibration {what}", got=got, expected="finite numbers", remedy=remedy
            )
        return x

    def _thin_out(self) -> None:
        """Every second held-out row joins the rest."""
        self._stride *= 2
        x, xq = self.held_out()
        two = any(pair is not None for _, pair in self._held)
        self._held = [_taken(x, xq if two else None, np.arange(len(x)) % 2 == 1)]
        self._waiting.append(_taken(x, xq if two else None, np.arange(len(x)) % 2 == 0))

    def _flush(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        xq = np.concatenate([rows if other is None else other for rows, other in waiting])
        self.rows += len(xq)
        self.hessian += xq.T @ xq
        if self.cross and any(other is not None for _, other in waiting):
            change = np.concatenate([rows for rows, _ in waiting]) - xq
            product = xq.T @ (change if self._stacked is None else change @ self._stacked.T)
            self._cross = product if self._cross is None else self._cross + product


def _side_by_side(weights: Mapping[str, Matrix], columns: int) -> dict[str, slice]:
    """Where each layer's outputs stand in the stacked product; empty where X~'(X - X~) costs less."""
    outputs = sum(len(weight) for weight in weights.values())
    if not outputs or 2 * outputs >= columns:
        return {}
    ends = np.cumsum([len(weight) for weight in weights.values()]).tolist()
    return {
        name: slice(end - len(weight), end) for (name, weight), end in zip(weights.items(), ends, strict=True)
    }


def _taken(x: Rows, xq: Rows | None, which: np.ndarray) -> tuple[Some, Some | None]:
    return x[which], None if xq is None else xq[which]
