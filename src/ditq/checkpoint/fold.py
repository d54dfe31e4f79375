"""SmoothQuant factors that every reader gets right: folded into the adaptive layer norm before the smoothed layers.

q, k and v of an attention, and fc1, receive LN(x) (1 + scale) + shift, with both from the block's adaLN layer.
Dividing that by factors s is the same as another adaLN layer: its rows over s, and the bias b of the scale rows becomes
(1 + b) / s - 1.
"""

import re
from collections.abc import Mapping

import mlx.core as mx
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight

Parameters = dict[str, mx.array]
_FOLDABLE = re.compile(r"(.*_transformer_block)\.(attn|attn2|mlp)\.(q_proj|k_proj|v_proj|fc1)")
_FIRST_CHUNK = {"attn": 0, "mlp": 3, "attn2": 6}
"""Of the adaLN's output chunks, the shift before this part; its scale follows."""


def folded(parameters: Parameters, weights: Mapping[str, QuantizedWeight]) -> Parameters:
    """The model's `parameters` with the factors of all smoothed `weights` in their adaLN layers.

    Raises UserError, naming the layer, for factors that adaLN cannot take: those of o_proj and fc2, and those that q, k
    and v do not share.
    """
    result = dict(parameters)
    done: set[str] = set()
    for path, weight in weights.items():
        if weight.smooth is None:
            continue
        found = _FOLDABLE.fullmatch(path)
        if not found:
            raise UserError(
                path,
                got="smoothing factors that no adaptive layer norm can take",
                expected="factors of q_proj, k_proj, v_proj or fc1 alone",
                remedy="make the quant_config with --smooth foldable, and quantize the weights with it",
            )
        block, part, _ = found.groups()
        siblings = (
            [f"{block}.mlp.fc1"] if part == "mlp" else [f"{block}.{part}.{name}_proj" for name in "qkv"]
        )
        _check_shared(path, weight.smooth, siblings, weights)
        norm = f"{block}.adaLN_modulation.layers.1"
        if norm in weights:
            raise UserError(
                norm, got="a quantized adaLN layer", expected="a float one to fold smoothing into"
            )
        if f"{block}.{part}" not in done:
            done.add(f"{block}.{part}")
            _fold(result, norm, _FIRST_CHUNK[part], weight.smooth)
    return result


def _check_shared(
    path: str, factors: Float[mx.array, "in"], siblings: list[str], weights: Mapping[str, QuantizedWeight]
) -> None:
    for sibling in siblings:
        other = weights[sibling].smooth if sibling in weights else None
        if other is None or not mx.array_equal(other, factors).item():
            raise UserError(
                f"{path}: smoothing factors",
                got=f"others than those of {sibling}",
                expected="the same for all layers that read this input",
                remedy="make the quant_config with --smooth foldable",
            )


def _fold(parameters: Parameters, norm: str, chunk: int, factors: Float[mx.array, "hidden"]) -> None:
    hidden = factors.shape[0]
    shift = slice(chunk * hidden, (chunk + 1) * hidden)
    scale = slice((chunk + 1) * hidden, (chunk + 2) * hidden)
    kept = parameters[f"{norm}.weight"]
    weight, bias = kept.astype(mx.float32), parameters[f"{norm}.bias"].astype(mx.float32)
    for rows, one in ((shift, 0.0), (scale, 1.0)):
        weight[rows] = weight[rows] / factors[:, None]
        bias[rows] = (one + bias[rows]) / factors - one
    parameters[f"{norm}.weight"], parameters[f"{norm}.bias"] = (
        weight.astype(kept.dtype),
        bias.astype(kept.dtype),
    )
