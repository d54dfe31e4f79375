"""The layers outside the blocks: embedders, modulation that runs once a step, and the layers behind the last block.

They are solved phase by phase of a pass (prepare, begin, finish) and, within a phase, stage by stage: each layer sees
what those before it have become. Layers that share an input and a method share one Hessian, as all adaLN layers of an
MMDiT do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Float32

from ditq import capture
from ditq.core.errors import DitqError, UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.models.anatomy import Phase
from ditq.models.base import Network
from ditq.models.state import SomeRows
from ditq.weights.columns.hessian import Moments
from ditq.weights.mixed import dequantized
from ditq.weights.problem import LayerSolver, Method

Solved = dict[str, QuantizedWeight]
Asked = Mapping[str, tuple[Method, Spec]]
"""Method and grid of each layer."""
Run = Callable[[], Any]
"""Runs a phase of the network, as it then is, on one batch; its result is lazy and never evaluated as a whole."""


class Batch(NamedTuple):
    """A run of a phase on some rows."""

    run: Run
    held_out: bool | None = None
    """Whether its rows judge, or are solved with; None: some of them judge, evenly spread."""
    rows: SomeRows | None = None
    """Those that count; None: all."""


Runs = Callable[[], Iterable[Batch]]
"""The batches of a phase, anew at each call."""
InputBatch = Float[mx.array, "*rows columns"]


def check(asked: Asked) -> None:
    """Raises UserError, naming the layer, for a method that works on whole blocks alone."""
    for path, (method, _) in asked.items():
        if not method.by_layer:
            raise UserError(
                path,
                got=f"method {type(method).__name__}, which works on the layers of blocks",
                remedy="give it a line of its own with rtn, gptq or qronos, or float",
            )


def solve_phase(
    network: Network,
    phase: Phase,
    asked: Asked,
    before: Mapping[str, QuantizedWeight],
    run_float: Runs,
    run_quantized: Runs | None = None,
) -> tuple[Solved, dict[str, Any]]:
    """Those layers of `asked` that run in this phase on their grids, and a report of each; both by path.

    `before` are the layers outside the blocks that earlier phases have solved. `run_float()` yields batch after batch,
    each with a closure that runs this phase of `network` on what enters it in the float model:

        prepare  lambda: network.given(conditioning, timesteps)
        begin    lambda: network.begin(latents, **inputs)
        finish   lambda: network.finish({**carried, **network.given(conditioning, timesteps)}, height, width)

    `run_quantized()` yields the same batches as they enter it in the quantized model; None: they are the same. To see
    what a layer receives in the quantized model, the closures run while the layers of `before`, and those of earlier
    stages, are quantized in `network`. What they return is lazy: only what the observed layer receives is evaluated.
    Raises DitqError for a layer that the phase does not call.
    """
    known = set(network.anatomy.paths(phase=phase))
    layers = capture.layers(network)
    solved, reports = Solved(), dict[str, Any]()
    for stage in network.anatomy.stages(path for path in asked if path in known):
        for group in _groups(network, stage, asked):
            first, method = group[0], asked[group[0]][0]
            assert isinstance(method, LayerSolver), f"{first}: `check` refuses it"
            moments = None
            if method.streams != "none":
                batches = _batches(network, method, first, {**before, **solved}, run_float, run_quantized)
                weights = {path: _matrix(layers[path]) for path in group if method.streams == "both"}
                moments = _moments(capture.matrix(layers[first]).shape[1], first, weights, batches)
            for path in group:  # in float32 one at a time: all adaLN layers are a third of a model
                weight = _matrix(layers[path])
                solved[path], reports[path] = method.solve(weight, moments, asked[path][1], path)
    return solved, reports


def _groups(network: Network, stage: Iterable[str], asked: Asked) -> list[list[str]]:
    """The layers grouped by input and method: those of one group share a Hessian, whatever their grids."""
    found: dict[tuple[str, Method], list[str]] = {}
    for path in stage:
        found.setdefault((network.anatomy.site(path).input, asked[path][0]), []).append(path)
    return list(found.values())


def _matrix(layer: capture.Layer) -> Float32[np.ndarray, "out columns"]:
    return np.array(capture.matrix(layer).astype(mx.float32))


def _moments(
    columns: int,
    name: str,
    weights: Mapping[str, Float32[np.ndarray, "_ columns"]],
    batches: Iterable[tuple[InputBatch, InputBatch | None, bool | None]],
) -> Moments:
    """The finished moments of the input that these layers share; `weights` where both streams are looked at."""
    moments = Moments(columns, name, weights or None)
    for batch in batches:
        moments.add(*batch)
    return moments.finish()


def _batches(
    network: Network,
    method: Method,
    path: str,
    quantized: Mapping[str, QuantizedWeight],
    run_float: Runs,
    run_quantized: Runs | None,
) -> Iterator[tuple[InputBatch, InputBatch | None, bool | None]]:
    """What the layer's matrix multiplies, batch by batch, in those models that the method looks at, and whether it is
    held out."""
    made = dequantized(network, quantized)
    if method.streams == "float" or not (made or run_quantized):
        for batch in run_float():
            yield _received(network, path, batch, {}), None, batch.held_out
    elif method.streams == "quantized":
        for batch in (run_quantized or run_float)():
            yield _received(network, path, batch, made), None, batch.held_out
    else:
        for batch, other in zip(run_float(), (run_quantized or run_float)(), strict=True):
            inputs = _received(network, path, batch, {}), _received(network, path, other, made)
            yield *inputs, batch.held_out


def _received(
    network: Network, path: str, batch: Batch, quantized: Mapping[str, nn.Module]
) -> Float[mx.array, "*rows columns"]:
    """What the layer's matrix multiplies for a batch, with these layers in the network; float32, evaluated."""
    seen: list[mx.array] = []

    def observe(path: str, x: mx.array) -> None:
        seen.append(capture.patches(layer, x.astype(mx.float32)))

    with capture.swapped(network, quantized):
        layer = capture.layers(network)[path]
        with capture.traced(network, [path], observe):
            batch.run()
    if not seen:
        raise DitqError(f"{path}: not called in its phase {network.anatomy.site(path).phase!r}")
    if batch.rows is not None:
        seen = [x[mx.array(batch.rows)] for x in seen]
    mx.eval(seen)
    return seen[0] if len(seen) == 1 else mx.concatenate([x.reshape(-1, x.shape[-1]) for x in seen])
