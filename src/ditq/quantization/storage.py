"""What a checkpoint folder cannot hold, asked of a recipe before anything is computed."""

from ditq import capture
from ditq.core import packing
from ditq.core.errors import UserError
from ditq.core.recipe import Recipe
from ditq.models.base import Network
from ditq.quantization.assignment import Assigned, assigned


def check_storable(network: Network, recipe: Recipe) -> None:
    """Raises UserError, naming recipe and layer, unless `write_folder` can write what the recipe makes of the network.

    MLX packs no 7 bits, and columns in whole groups alone; smoothing factors must find a float modulation in front of
    their layer, and all layers that read its output must take them. Only shapes are asked: a skeleton serves.
    """
    where, todo = f"recipe {recipe.name}", assigned(network, recipe)
    layers = network.anatomy.modules(network)
    for path, rule in todo.rules.items():
        if rule.spec is not None:
            packing.storage_group(rule.spec, capture.matrix(layers[path]).shape[1], f"{where}: {path}")
    smooth = (recipe.activations or {}).get("smooth", "none")
    if smooth in ("foldable", "all"):
        for path in network.anatomy.paths("block"):
            if path in todo.rules:
                _check_foldable(path, todo, smooth, where)


def _check_foldable(path: str, todo: Assigned, smooth: str, where: str) -> None:
    """Raises UserError for a layer whose factors could not be stored if it got some."""
    fold = todo.anatomy.site(path).fold
    if fold is None:
        if smooth == "all":
            raise UserError(
                f"{where}: activations: smooth",
                got=f'"all", though no modulation can take the factors of {path}',
                expected="factors that a checkpoint folder can hold",
                remedy='use "foldable" or "none"',
            )
        return
    if fold.layer in todo.rules:
        raise UserError(
            f"{where}: activations: smooth",
            got=f'"{smooth}", though the recipe quantizes {fold.layer}, which takes the factors',
            expected="a float modulation in front of smoothed layers",
            remedy='leave it float ({"roles": ["modulation"], "method": "float"}), or set "smooth": "none"',
        )
    others = [reader for reader in todo.anatomy.sharing(path) if reader not in todo.rules]
    if others:
        raise UserError(
            f"{where}: activations: smooth",
            got=f'"{smooth}", though {others[0]} stays float and reads the input of {path}',
            expected="all layers that read a smoothed input quantized, or none",
            remedy='quantize it too, or set "smooth": "none"',
        )
