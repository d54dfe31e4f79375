"""The optimisation behind AdaRound: it learns rounding and input grids that bring a block's output to the float one's.

The loss of one step is the block's squared error on a batch, measured in that of the start, plus `penalty` times the
mean indecision of the weights: both are near 1 whatever the model, its width or its activations are.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from jaxtyping import Float, UInt32
from mlx.utils import tree_map

from ditq.models.state import BlockState, SomeRows, take_rows
from ditq.weights.block_error import squared_error
from ditq.weights.checks import finite
from ditq.weights.input_grids import InputGrids, StaticInputs
from ditq.weights.problem import BlockProblem, OnIteration
from ditq.weights.quantized_block import GridLayer, InputGrid, Quantize, run_on_grids
from ditq.weights.soft_rounding import Parts, Rounding, indecision, settled

Learned = dict[str, dict[str, mx.array]]
"""`parts` by layer; by input name, `growths` (log of the step relative to its first value) and `moves` (of the centre,
in multiples of the first step)."""
SETTLED_AT = 0.8
"""Share of the run after the warm-up at whose end every weight is whole; the rest tunes whole weights."""
LESS = "use smaller rates (lr, lr_scale), or another method for this block"
COMPILED = 50
"""Iterations from which the update is compiled: a fifth faster on a CPU, for some seconds at the beginning."""
LOOKS = 4
"""How often that rest evaluates the error on all rows; the best result is kept."""
TUNING = 0.3
"""Adam's rate for the rounding in that rest, by the rate before."""
Key = UInt32[mx.array, "2"]


class Settings(Protocol):
    """What `AdaRound` sets."""

    iterations: int
    batch_size: int
    lr: float
    lr_scale: float
    penalty: float
    warmup: float
    beta_start: float
    beta_end: float
    drop: float


class Reconstruction:
    """One block's optimisation."""

    def __init__(
        self,
        problem: BlockProblem,
        roundings: Mapping[str, Rounding],
        inputs: InputGrids,
        powers: Mapping[str, float],
        unit: float,
        settings: Any,
        compiled: bool | None = None,
    ):
        self.problem, self.roundings, self.given = problem, roundings, inputs
        self.powers, self.unit, self.settings = powers, max(unit, 1e-30), settings
        if compiled is None:
            compiled = settings.iterations >= COMPILED
        self.compiled = compiled
        self._biases = {path: problem.bias(path) for path in roundings}
        self._sizes = sum(rounding.below.size for rounding in roundings.values())

    def run(
        self,
        parts: Mapping[str, Parts],
        rows: SomeRows,
        on_iteration: OnIteration,
        error_of: Callable[[Learned], float],
    ) -> tuple[Learned, list[float]]:
        """What was learned, and each iteration's reconstruction error relative to `unit`.

        `error_of` evaluates learned, whole weights; the best that the tuning passes through are returned. Raises
        UserError, naming block and iteration, when the loss is not finite.
        """
        settings, rng = self.settings, np.random.default_rng(self.problem.seed)
        learned = self.begin(parts)
        best, least, looks = learned, np.inf, self._looks()
        slow = optim.cosine_decay(settings.lr_scale, max(1, settings.iterations))
        optimisers: list[optim.Optimizer] = [
            optim.Adam(rate, bias_correction=True) for rate in (self._rate, slow)
        ]
        for optimiser, some in zip(optimisers, _split(learned), strict=True):
            optimiser.init(some)
        step = self.update(optimisers)
        losses = []
        for iteration in range(settings.iterations):
            batch = rng.choice(rows, min(settings.batch_size, len(rows)), replace=False)
            key = mx.array(rng.integers(0, 1 << 32, 2, dtype=np.uint32))
            pull = [mx.array(number) for number in self.pull(iteration)]
            parts_of_batch = list(self.problem.batches(batch))
            if len(parts_of_batch) == 1:
                learned, error = step(learned, *self.batch(batch), key, *pull)
            else:
                learned, error = self.step_in_parts(optimisers, learned, parts_of_batch, key, pull)
            mx.eval(learned, error, [optimiser.state for optimiser in optimisers])
            losses.append(
                finite(
                    float(np.array(error)), f"{self.problem.path}: iteration {iteration + 1}", "a loss", LESS
                )
            )
            if iteration + 1 in looks:
                found = error_of(learned)
                best, least = (learned, found) if found < least else (best, least)
            on_iteration(iteration + 1, losses[-1])
        return best, losses

    def _looks(self) -> set[int]:
        """The iterations after which all weights are whole and their error is looked at, the last among them."""
        last = self.settings.iterations
        return {round(float(n)) for n in np.linspace(min(self._whole_at, last), last, LOOKS)}

    @property
    def _whole_at(self) -> float:
        """The iteration at which the last weights settle."""
        settings = self.settings
        return (settings.warmup + (1 - settings.warmup) * SETTLED_AT) * settings.iterations

    def begin(self, parts: Mapping[str, Parts]) -> Learned:
        """The parts to begin with, input grids as given."""
        grids = self.given.grids if isinstance(self.given, StaticInputs) else {}
        zeros = {name: mx.array(0.0) for name in grids}
        # a centre moves where there is one: other inputs stay symmetric
        moves = {name: mx.array(0.0) for name, (_, shift) in grids.items() if np.array(shift) != 0}
        return {"parts": dict(parts), "growths": zeros, "moves": moves}

    def inputs(self, learned: Learned) -> InputGrids:
        """The input grids with what was learned of them."""
        if not isinstance(self.given, StaticInputs):
            return self.given
        grids = {
            name: (scale * mx.exp(learned["growths"][name]), shift + scale * learned["moves"].get(name, 0.0))
            for name, (scale, shift) in self.given.grids.items()
        }
        return replace(self.given, grids=grids)

    def pull(self, iteration: int) -> tuple[float, float, float]:
        """The schedule that drives weights to whole codes: beta, the weight of the indecision, and the reach at which
        weights settle. Off during the warm-up."""
        settings = self.settings
        progress = (iteration / settings.iterations - settings.warmup) / max(1e-9, 1 - settings.warmup)
        if progress < 0:
            return settings.beta_start, 0.0, 0.5
        beta = settings.beta_start + (settings.beta_end - settings.beta_start) * progress
        return beta, settings.penalty, 0.5 * max(0.0, 1 - progress / SETTLED_AT)

    def _rate(self, iteration: mx.array) -> mx.array:
        """Adam's rate for the parts: lower once every weight is whole."""
        return mx.where(iteration > self._whole_at, TUNING * self.settings.lr, self.settings.lr)

    def loss(
        self,
        learned: Learned,
        rows: mx.array,
        inputs: BlockState,
        targets: BlockState,
        key: Key,
        beta: Float[mx.array, ""],
        penalty: Float[mx.array, ""],
        reach: Float[mx.array, ""],
    ) -> tuple[Float[mx.array, ""], Float[mx.array, ""]]:
        """The loss, and its first part, the reconstruction error relative to `unit`."""
        quantizers = self._quantizers(self.inputs(learned).of(self.roundings, rows), key)
        layers = {
            self.problem.inside(path): GridLayer(
                rounding.values(settled(learned["parts"][path], reach)),
                self._biases[path],
                quantizers.get(path),
            )
            for path, rounding in self.roundings.items()
        }
        output = run_on_grids(self.problem.block, layers, inputs)
        error = squared_error(output, targets, self.powers) / self.unit
        undecided = sum(
            (indecision(part, beta) * (part.size / self._sizes) for part in learned["parts"].values()),
            mx.array(0.0),
        )
        return error + penalty * undecided, error

    def _quantizers(self, grids: Mapping[str, InputGrid], key: Key) -> dict[str, Quantize]:
        """Each grid's function, some values of every call left as they are (QDrop)."""
        distinct = list({id(grid): grid for grid in grids.values()}.values())
        keys = mx.random.split(key, len(distinct) + 1)
        made = {
            id(grid): _dropping(grid, keys[i], float(self.settings.drop)) for i, grid in enumerate(distinct)
        }
        return {path: made[id(grid)] for path, grid in grids.items()}

    def batch(self, rows: SomeRows) -> tuple[mx.array, BlockState, BlockState, BlockState]:
        """What `update` takes of these rows: their numbers, what is carried to the block in the float model, all that
        the block reads in the quantized one, and the targets; float32."""
        problem = self.problem
        carried = {name: problem.inputs[name] for name in problem.carried}
        quantized, targets = take_rows(problem.quantized_inputs, rows), take_rows(problem.targets, rows)
        return mx.array(rows), take_rows(carried, rows), quantized, targets

    def update(self, optimisers: list[optim.Optimizer]) -> Callable:
        """One update: gradients, Adam on both kinds of parameters, and the parts put back into [0, 1]."""

        def step(learned, *given):
            error, grads = self._gradients(learned, *given)
            return _moved(optimisers, learned, grads), error

        if not self.compiled:
            return step
        states = [optimiser.state for optimiser in optimisers]
        return mx.compile(step, inputs=states, outputs=states)

    def step_in_parts(
        self,
        optimisers: list[optim.Optimizer],
        learned: Learned,
        parts: list[np.ndarray],
        key: Key,
        pull: list[mx.array],
    ) -> tuple[Learned, mx.array]:
        """One update whose batch is too large for memory: gradients of a few rows at a time, averaged."""
        total, grads, rows = mx.array(0.0), None, sum(map(len, parts))
        for some, own in zip(parts, mx.random.split(key, len(parts)), strict=True):
            error, found = self._gradients(learned, *self.batch(some), own, *pull)
            found = tree_map(lambda one: one * (len(some) / rows), found)  # noqa: B023 (used at once)
            grads = found if grads is None else tree_map(mx.add, grads, found)
            total = total + error * (len(some) / rows)
            mx.eval(total, grads)
        assert grads is not None, "a batch has rows"
        return _moved(optimisers, learned, grads), total

    def _gradients(self, learned, rows, carried, quantized, targets, key, *pull) -> tuple[mx.array, Learned]:
        mixing, dropping = mx.random.split(key)
        mixed = _mixed(carried, quantized, mixing, float(self.settings.drop))
        (_, error), grads = mx.value_and_grad(self.loss)(learned, rows, mixed, targets, dropping, *pull)
        return error, grads


def _moved(optimisers: list[optim.Optimizer], learned: Learned, grads: Learned) -> Learned:
    """What Adam makes of it on both kinds of parameters, the parts put back into [0, 1]."""
    fast, slow = (
        optimiser.apply_gradients(some, now)
        for optimiser, some, now in zip(optimisers, _split(grads), _split(learned), strict=True)
    )
    parts = {path: mx.clip(part, 0, 1) for path, part in fast["parts"].items()}
    return {"parts": parts, **slow}


def _split(learned: Learned) -> tuple[Learned, Learned]:
    return {"parts": learned["parts"]}, {name: learned[name] for name in ("growths", "moves")}


def _mixed(carried: BlockState, quantized: BlockState, key: Key, share: float) -> BlockState:
    """The quantized state, each value of its `carried` arrays from the float model with probability `share`."""
    mixed = dict(quantized)
    keys = mx.random.split(key, max(1, len(carried)))
    for number, (name, array) in enumerate(carried.items()):
        kept = mx.random.bernoulli(share, array.shape, key=keys[number])
        mixed[name] = mx.where(kept, array, quantized[name])
    return mixed


def _dropping(grid: InputGrid, key: Key, share: float) -> Quantize:
    def quantize(x: mx.array) -> mx.array:
        return mx.where(mx.random.bernoulli(share, x.shape, key=key), grid.smoothed(x), grid(x))

    return quantize
