"""Flips: the last, discrete stage of learned rounding, where gradients are of no more use.

Layer by layer, the block's error is modelled to second order in that layer's weight, a local search (`flip_search`)
looks for the flips that minimise the model, and those that lower the true error are kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.capture import patches
from ditq.core.quantized import QuantizedWeight
from ditq.models.state import BlockState, SomeRows, take_rows
from ditq.weights.block_error import block_error, squared_error
from ditq.weights.checks import finite
from ditq.weights.flip_search import Quadratic, best_flips
from ditq.weights.input_grids import InputGrids
from ditq.weights.problem import BlockProblem
from ditq.weights.quantized_block import GridLayer, InputGrid, Quantize, run_on_grids
from ditq.weights.soft_rounding import Parts, Rounding

CAUTIONS = (1.0, 4.0, 16.0, 64.0)
"""Factors of the curvature, tried in turn until the error has fallen and a further factor does not lower it."""
NOISE = 3.0
"""Standard deviations of a probe's noise that an entry of the curvature must exceed."""
LayerOutput = Float[mx.array, "batch *inner out"]


def flipped(
    problem: BlockProblem,
    roundings: Mapping[str, Rounding],
    parts: Mapping[str, Parts],
    inputs: InputGrids,
    rows: SomeRows,
    powers: Mapping[str, float],
    sweeps: int,
    pull: float = 0.0,
) -> tuple[dict[str, Parts], list[float]]:
    """Whole parts that are no worse on these rows, and the block's error before and after each sweep over its layers.

    `pull` adds to H, and so to the distance from the float weight, that part of its mean diagonal: see docs/methods.md.
    """
    whole = {path: (part >= 0.5).astype(part.dtype) for path, part in parts.items()}
    rng = np.random.default_rng(problem.seed)

    def weights(some: Mapping[str, Parts]) -> dict[str, QuantizedWeight]:
        return {path: roundings[path].hardened(part, problem.smooth(path)) for path, part in some.items()}

    def error_of(some: Mapping[str, Parts]) -> float:
        return block_error(problem, weights(some), inputs, rows, powers)

    errors = [finite(error_of(whole), problem.path, "an error of whole weights")]
    for _ in range(sweeps):
        error = errors[-1]
        for path in execution_order(problem, weights(whole)):
            loss = expansion(problem, weights(whole), inputs, path, rows, powers, rng)
            values = roundings[path].values
            far = np.array(values(whole[path]) - problem.weight(path))
            delta = np.array(values(1 - whole[path]) - values(whole[path]))
            whole, error = _bettered(whole, error, error_of, path, pulled(loss, far, pull), delta, rng)
        errors.append(error)
    return whole, errors


def _bettered(
    whole: dict[str, Parts],
    error: float,
    error_of: Callable[[Mapping[str, Parts]], float],
    path: str,
    loss: Quadratic,
    delta: Float32[np.ndarray, "rows columns"],
    rng: np.random.Generator,
) -> tuple[dict[str, Parts], float]:
    """The parts with those flips of one layer that have the least true error, and that error."""
    best, least = whole, error
    for caution in CAUTIONS:
        flips = best_flips(replace(loss, curvature=np.float32(caution) * loss.curvature), delta, rng)
        trial = {**whole, path: mx.where(mx.array(flips), 1 - whole[path], whole[path])}
        found = error_of(trial) if flips.any() else np.inf
        if found < least:
            best, least = trial, found
        elif least < error or not flips.any():
            break
    return best, least


def pulled(loss: Quadratic, far: Float32[np.ndarray, "out in"], pull: float) -> Quadratic:
    """The loss plus pull h tr(C E E') / 2, with h the mean diagonal of H and E, now `far`, the weight's distance."""
    ridge = np.float32(pull * np.diagonal(loss.second).mean())
    second = loss.second + ridge * np.eye(len(loss.second), dtype=np.float32)
    return Quadratic(loss.gradient + ridge * (loss.curvature @ far), second, loss.curvature)


def expansion(
    problem: BlockProblem,
    weights: Mapping[str, QuantizedWeight],
    inputs: InputGrids,
    path: str,
    rows: SomeRows,
    powers: Mapping[str, float],
    rng: np.random.Generator,
) -> Quadratic:
    """The block's error on these rows around its weights, to second order in the weight of the layer at `path`.

    With e the error's gradient at the layer's output and x its input, which is on its grid, g is the sum of e'x over
    tokens. The curvature is Gauss and Newton's, without what couples tokens, and taken for a product of outputs' and
    inputs' (K-FAC, arXiv 1503.05671): with u the gradient of the output's sum under random signs, scaled so that u'u
    is the curvature on the average, C is the sum of u'u and H the mean of x'x with |u|^2 for weight. Exact where
    nothing follows the layer.
    """
    gradient, second = mx.array(0.0), mx.array(0.0)
    curvature, total, count = mx.array(0.0), mx.array(0.0), 0
    for some in problem.batches(rows):
        layer = _Nudged(problem, weights, inputs, path, some)
        targets = take_rows(problem.targets, some)
        share = len(some) / len(rows)
        signs = {
            name: mx.array(rng.choice(np.array([-1, 1], np.float32), targets[name].shape))
            * (2 * share / (targets[name].size * power * len(powers))) ** 0.5
            for name, power in powers.items()
        }

        def error(nudge: LayerOutput) -> Float[mx.array, ""]:
            return share * squared_error(layer.output(nudge), targets, powers)  # noqa: B023 (used at once)

        def probe(nudge: LayerOutput) -> Float[mx.array, ""]:
            output = layer.output(nudge)  # noqa: B023
            return sum(((output[name] * sign).sum() for name, sign in signs.items()), mx.array(0.0))  # noqa: B023

        slope, bent = (mx.grad(f)(mx.zeros(layer.shape)).reshape(-1, layer.shape[-1]) for f in (error, probe))
        x, each = layer.input.reshape(-1, layer.input.shape[-1]), mx.square(bent).sum(axis=1)
        gradient, curvature, count = gradient + slope.T @ x, curvature + bent.T @ bent, count + len(x)
        second, total = second + (x * each[:, None]).T @ x, total + each.sum()
        mx.eval(gradient, second, curvature, total)
    second, gradient = np.array(second / mx.maximum(total, 1e-30)), np.array(gradient)
    return Quadratic(gradient, second, without_noise(np.array(curvature), count))


def without_noise(probed: Float32[np.ndarray, "out out"], probes: int) -> Float32[np.ndarray, "out out"]:
    """The matrix, what may be the noise of so many probes taken from its off-diagonal entries."""
    scale = np.sqrt(np.diagonal(probed))
    noise = NOISE**2 / probes * np.square(scale[:, None] * scale)
    kept = np.maximum(0, np.square(probed) - noise) / np.maximum(np.square(probed), np.float32(1e-37))
    np.fill_diagonal(kept, 1)
    return probed * kept


def execution_order(problem: BlockProblem, weights: Mapping[str, QuantizedWeight]) -> list[str]:
    """The layers that the block calls, in the order in which it does."""
    order: list[str] = []

    def noting(path: str) -> Quantize:
        return lambda x: (order.append(path), x)[1]

    layers = {
        problem.inside(path): GridLayer(weight.values(), problem.bias(path), noting(path))
        for path, weight in weights.items()
    }
    run_on_grids(problem.block, layers, take_rows(problem.quantized_inputs, np.arange(1)))
    return order


class _Nudged:
    """The quantized block on a batch, as a function of what is added to one layer's output."""

    def __init__(
        self,
        problem: BlockProblem,
        weights: Mapping[str, QuantizedWeight],
        inputs: InputGrids,
        path: str,
        rows: SomeRows,
    ):
        self._problem, self._state = problem, take_rows(problem.quantized_inputs, rows)
        self._grids: dict[str, InputGrid] = inputs.of(weights, mx.array(rows))
        self._values = {name: weight.values() for name, weight in weights.items()}
        self._path, self._seen = path, list[mx.array]()
        self._run(None)
        self.input = patches(problem.layer(path), self._seen[0])
        """What the layer's matrix multiplies: smoothed and on its grid."""
        self.shape = (*self.input.shape[:-1], self._values[path].shape[0])

    def output(self, nudge: LayerOutput) -> BlockState:
        """What the block writes with `nudge` added to the layer's output."""
        return self._run(nudge)

    def _run(self, nudge: LayerOutput | None) -> BlockState:
        layers = {}
        for path, values in self._values.items():
            bias, grid = self._problem.bias(path), self._grids.get(path)
            if path == self._path:
                bias = bias if nudge is None else nudge if bias is None else nudge + bias
                grid = self._noting(grid)
            layers[self._problem.inside(path)] = GridLayer(values, bias, grid)
        return run_on_grids(self._problem.block, layers, self._state)

    def _noting(self, grid: InputGrid | None) -> Quantize:
        def quantize(x: mx.array) -> mx.array:
            x = x if grid is None else grid(x)
            self._seen = self._seen or [x]
            return x

        return quantize
