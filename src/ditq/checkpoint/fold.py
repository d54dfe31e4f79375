"""SmoothQuant factors that every reader gets right: folded into the modulation in front of the smoothed layers.

Such layers receive LN(x) (1 + scale) + shift, and both are rows of what an adaLN layer returns; a `Fold` of the
model's anatomy says which. Dividing that by factors s is the same as another adaLN layer: its rows over s, and the
bias b of the scale rows becomes (1 + b) / s - 1.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.models.anatomy import Anatomy, Fold

Parameters = dict[str, mx.array]


def folded(parameters: Parameters, weights: Mapping[str, QuantizedWeight], anatomy: Anatomy) -> Parameters:
    """The model's `parameters` with the factors of all smoothed `weights` in their adaLN layers.

    Raises UserError, naming the layer, for factors that adaLN cannot take: those of layers without a modulated norm in
    front of them, and those that the layers which read this norm do not share.
    """
    result = dict(parameters)
    done: set[Fold] = set()
    for path, weight in weights.items():
        if weight.smooth is None:
            continue
        fold = anatomy.site(path).fold
        if fold is None:
            raise UserError(
                path,
                got="smoothing factors that no adaptive layer norm can take",
                expected=f"factors of {_foldable(anatomy)} alone",
                remedy="make the quant_config with --smooth foldable, and quantize the weights with it",
            )
        _check_shared(path, weight.smooth, anatomy.sharing(path), weights)
        if fold.layer in weights:
            raise UserError(
                fold.layer, got="a quantized adaLN layer", expected="a float one to fold smoothing into"
            )
        if fold not in done:
            done.add(fold)
            _fold(result, fold, weight.smooth)
    return result


def _foldable(anatomy: Anatomy) -> str:
    """The names of the layers that factors can be folded in front of, as a list in words."""
    names = list(dict.fromkeys(path.rpartition(".")[2] for path, site in anatomy.sites.items() if site.fold))
    return " or ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part) or "no layer"


def _check_shared(
    path: str, factors: Float[mx.array, "in"], readers: Sequence[str], weights: Mapping[str, QuantizedWeight]
) -> None:
    for reader in readers:
        other = weights[reader].smooth if reader in weights else None
        if other is None or not mx.array_equal(other, factors).item():
            raise UserError(
                f"{path}: smoothing factors",
                got=f"others than those of {reader}",
                expected="the same for all layers that read this input",
                remedy="make the quant_config with --smooth foldable",
            )


def _fold(parameters: Parameters, fold: Fold, factors: Float[mx.array, "hidden"]) -> None:
    hidden = factors.shape[0]
    kept = parameters[f"{fold.layer}.weight"]
    weight, bias = kept.astype(mx.float32), parameters[f"{fold.layer}.bias"].astype(mx.float32)
    for chunk, one in ((fold.shift, 0.0), (fold.scale, 1.0)):
        rows = slice(chunk * hidden, (chunk + 1) * hidden)
        weight[rows] = weight[rows] / factors[:, None]
        bias[rows] = (one + bias[rows]) / factors - one
    parameters[f"{fold.layer}.weight"] = weight.astype(kept.dtype)
    parameters[f"{fold.layer}.bias"] = bias.astype(kept.dtype)
