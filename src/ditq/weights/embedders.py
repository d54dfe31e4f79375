"""The linear layers outside attention and MLP: embedders, the adaLN of every block, the final layer.

They run once a prompt or once a step, on few rows. Their inputs need no block: the conditioning comes from pooled text
and timestep alone, and all adaLN layers receive silu of it, so that they share one Hessian.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float

from ditq.capture import linears, swapped
from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.diagnostics.tracing import traced
from ditq.models.mmdit import MMDiT
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.layer import solve_layer
from ditq.weights.layerwise import ParallelGPTQ, SequentialGPTQ, SequentialQronos, told
from ditq.weights.mixed import dequantized
from ditq.weights.problem import Method
from ditq.weights.rtn import RTN

Solved = dict[str, QuantizedWeight]
Values = Float[mx.array, "*rows channels"]
Asked = Mapping[str, tuple[Method, Spec]]
"""Method and grid of each layer."""
CONDITION = (
    ("t_embedder.mlp.layers.0", "y_embedder.mlp.layers.0"),
    ("t_embedder.mlp.layers.2", "y_embedder.mlp.layers.2"),
)
"""The embedders' layers in the order of execution."""
TEXT, LAST = "context_embedder", "final_layer.linear"


def check(asked: Asked) -> None:
    """Raises UserError, naming the layer, for a method that works on whole blocks alone, and for a group that does
    not divide."""
    for path, (method, _) in asked.items():
        if not isinstance(method, RTN | ParallelGPTQ | SequentialGPTQ | SequentialQronos):
            name = type(method).__name__
            raise UserError(
                path,
                got=f"method {name}, which works on the layers of blocks",
                remedy="give it a line of its own with rtn, gptq or qronos, or float",
            )


def condition_layers(
    mmdit: MMDiT, asked: Asked, pooled: Values, timesteps: Float[mx.array, "rows"]
) -> tuple[Solved, dict[str, Any]]:
    """The embedders of timestep and pooled text, then every adaLN layer; and a report of each.

    `pooled` and `timesteps` are those of the calibration's rows.
    """
    solved: Solved = {}
    reports: dict[str, Any] = {}

    def run(model: MMDiT) -> mx.array:
        return model.condition(pooled, timesteps)

    for stage in CONDITION:
        paths = [path for path in stage if path in asked]
        for path in paths:
            _solve_group(mmdit, {path: asked[path]}, solved, reports, path, run)
    adaptive = {path: own for path, own in asked.items() if ".adaLN_modulation." in path}
    for group in _same(adaptive):
        first = next(iter(group))
        seen = partial(_adaptive, path=first, run=run)
        _solve_group(mmdit, group, solved, reports, first, seen)
    return solved, reports


def text_layer(mmdit: MMDiT, asked: Asked, tokens: Values) -> tuple[Solved, dict[str, Any]]:
    """The context embedder, from the text encoders' tokens, if it is asked for."""
    solved: Solved = {}
    reports: dict[str, Any] = {}
    if TEXT in asked:
        _solve_group(
            mmdit, {TEXT: asked[TEXT]}, solved, reports, TEXT, lambda model: model.context_embedder(tokens)
        )
    return solved, reports


def last_layer(
    mmdit: MMDiT,
    asked: Asked,
    before: Solved,
    floats: Callable[[], Iterable[tuple[mx.array, mx.array]]],
    quantized: Callable[[], Iterable[tuple[mx.array, mx.array]]],
) -> tuple[Solved, dict[str, Any]]:
    """The projection to patches, if it is asked for.

    `floats()` and `quantized()` give, batch by batch, the image stream behind the last block and its conditioning in
    the float and in the quantized model; `before` are the layers outside the blocks that are quantized already.
    """
    solved: Solved = {}
    reports: dict[str, Any] = {}
    if LAST not in asked:
        return solved, reports
    method, spec = asked[LAST]
    weight = _weight(mmdit, LAST)
    moments = Moments(weight.shape[1], LAST, {LAST: weight} if getattr(method, "corrects", False) else None)
    for (image, condition), (image_q, condition_q) in zip(floats(), quantized(), strict=True):
        x = _received(mmdit, LAST, partial(_final, image=image, condition=condition))
        with swapped(mmdit, dequantized(mmdit, before)):
            xq = _received(mmdit, LAST, partial(_final, image=image_q, condition=condition_q))
        _add(moments, method, x, xq)
    if not isinstance(method, RTN):
        moments.finish()
    _solve(LAST, weight, moments, method, spec, solved, reports)
    return solved, reports


def _solve_group(
    mmdit: MMDiT,
    group: Asked,
    solved: Solved,
    reports: dict[str, Any],
    seen_at: str,
    run: Callable[[MMDiT], mx.array],
) -> None:
    """Solves layers that share the input which `run` brings to the layer `seen_at`, and one method and grid."""
    method = next(iter(group.values()))[0]
    weights = {path: _weight(mmdit, path) for path in group}
    columns = weights[seen_at].shape[1]
    moments = Moments(columns, seen_at, weights if getattr(method, "corrects", False) else None)
    if not isinstance(method, RTN):
        x = _received(mmdit, seen_at, run)
        xq = None
        if solved:
            with swapped(mmdit, dequantized(mmdit, solved)):
                xq = _received(mmdit, seen_at, run)
        _add(moments, method, x, xq)
        moments.finish()
    for path, (own, spec) in group.items():
        _solve(path, weights[path], moments, own, spec, solved, reports)


def _add(moments: Moments, method: Method, x: mx.array, xq: mx.array | None) -> None:
    """Gives the moments the streams that the method looks at."""
    if isinstance(method, SequentialGPTQ):
        moments.add(x if xq is None else xq)
    elif isinstance(method, ParallelGPTQ):
        moments.add(x)
    elif isinstance(method, SequentialQronos):
        moments.add(x, xq)


def _solve(
    path: str,
    weight: np.ndarray,
    moments: Moments,
    method: Method,
    spec: Spec,
    solved: Solved,
    reports: dict[str, Any],
) -> None:
    if isinstance(method, RTN):
        solved[path] = QuantizedWeight(*affine.round_to_nearest(mx.array(weight), spec, method.search), spec)
        difference = np.linalg.norm(np.array(solved[path].values()) - weight)
        reports[path] = {
            "method": "RTN",
            "weight_error": float(difference / max(np.linalg.norm(weight), 1e-30)),
        }
        return
    assert isinstance(method, ParallelGPTQ | SequentialGPTQ | SequentialQronos)  # `check` saw to it
    solved[path], report = solve_layer(weight, moments, spec, method, path, path)
    reports[path] = told(report)


def _same(asked: Asked) -> list[dict[str, tuple[Method, Spec]]]:
    """The layers grouped by method: those of one share a Hessian, whatever their grids."""
    groups: dict[Method, dict[str, tuple[Method, Spec]]] = {}
    for path, (method, spec) in asked.items():
        groups.setdefault(method, {})[path] = (method, spec)
    return list(groups.values())


def _weight(mmdit: MMDiT, path: str) -> np.ndarray:
    return np.array(linears(mmdit)[path].weight.astype(mx.float32))


def _received(mmdit: MMDiT, path: str, run: Callable[[MMDiT], mx.array]) -> mx.array:
    """What the layer receives when `run` runs the model."""
    seen: list[mx.array] = []
    with traced(mmdit, [path], lambda _, x: seen.append(x.astype(mx.float32))):
        run(mmdit)
    mx.eval(seen)
    return seen[0]


def _adaptive(mmdit: MMDiT, path: str, run: Callable[[MMDiT], mx.array]) -> mx.array:
    """The output of one adaLN layer for the conditioning that `run` computes."""
    parts, condition = path.split("."), run(mmdit)
    if parts[0] == "final_layer":
        return mmdit.final_layer.adaLN_modulation(condition)
    return mmdit.multimodal_transformer_blocks[int(parts[1])][parts[2]].adaLN_modulation(condition)


def _final(mmdit: MMDiT, image: mx.array, condition: mx.array) -> mx.array:
    modulation = mmdit.final_layer.adaLN_modulation(condition)
    return mmdit.final_layer(image, list(mx.split(modulation[:, None], 2, axis=-1)))
