"""The activation methods by name, and what a recipe asks of them.

"activations": {"bits": 8}                                 the same bits for every layer and timestep
"activations": {"bits": "tiers"}                           4, 6 or 8 by the size of the values
"activations": {"bits": "error", "average_bits": 6}        least output error under a budget
"activations": {"method": "static", "bits": 8}             one grid for all timesteps
"activations": {"method": "dual-scale", "bits": 8}         a step above zero and one below it
"activations": {"method": "per-token", "bits": 8}          each token's own greatest value decides
beside it: "scale": "mse" or "max", "smooth": "none", "foldable" or "all", "norm", "shift_gain", "time_gain": numbers,
           "damage": {} or the fields of `diagnostics.DamageRecipe`: by what errors cost at the end of the trajectory
Other methods are given their fields by name.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ditq.activations.decision import ActivationMethod
from ditq.activations.dual_scale import DualScale
from ditq.activations.per_timestep import PerTimestep
from ditq.activations.per_token import PerToken
from ditq.activations.static import Static
from ditq.core.errors import UserError
from ditq.core.methods import built
from ditq.core.schema import shown
from ditq.core.spec import Spec

METHODS: dict[str, type[ActivationMethod]] = {
    "per-timestep": PerTimestep,
    "static": Static,
    "dual-scale": DualScale,
    "per-token": PerToken,
}
"""Each name's class."""
DEFAULT = "per-timestep"
"""The method of a recipe that names none."""


def method_for(asked: Any, weights: Spec, where: str) -> ActivationMethod | None:
    """The method that a recipe's `activations` ask for, None where activations stay as they are.

    A method whose fields are not plain JSON has a class method `from_recipe(fields, weights, where)`; `weights` is the
    grid of the weights. Raises UserError, beginning with `where`.
    """
    if asked is None:
        return None
    where = f"{where}: activations"
    if not isinstance(asked, Mapping):
        raise UserError(where, got=shown(asked), expected='an object such as {"bits": 8}')
    name, fields = asked.get("method", DEFAULT), {key: asked[key] for key in asked if key != "method"}
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"{where}: method", got=shown(name), expected=f"one of {', '.join(METHODS)}")
    own = getattr(METHODS[name], "from_recipe", None)
    return built(METHODS, name, fields, where) if own is None else own(fields, weights, where)


def described(method: ActivationMethod) -> dict[str, Any]:
    """The method as JSON values, for the files that it makes; other methods than the default one by name."""
    names = {cls: name for name, cls in METHODS.items()}
    name = names.get(type(method), type(method).__name__)
    own = getattr(method, "to_json", None)
    fields = asdict(method) if own is None else own()  # pyright: ignore[reportArgumentType]
    return fields if name == DEFAULT else {"name": name, **fields}
