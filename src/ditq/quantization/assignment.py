"""A recipe applied to the layers of one network, all of it checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from ditq import capture
from ditq.core.errors import UserError
from ditq.core.methods import built
from ditq.core.recipe import FLOAT, Recipe, Rule
from ditq.core.spec import Spec
from ditq.models.anatomy import Anatomy, Phase, Role
from ditq.models.base import Network
from ditq.weights import METHODS, Method, Mixed, embedders


@dataclass(frozen=True)
class Assigned:
    """Which method puts which layer on which grid."""

    rules: Mapping[str, Rule]
    """Of the quantized layers, by path."""
    methods: Mapping[str, Method]
    """By name."""
    anatomy: Anatomy

    def phase(self, *phases: Phase) -> dict[str, tuple[Method, Spec]]:
        """Method and grid of the quantized layers of these phases."""
        return {
            path: (self.methods[rule.method], rule.spec)
            for path, rule in self.rules.items()
            if self.anatomy.site(path).phase in phases and rule.spec is not None
        }

    def specs(self, block: str) -> dict[str, Spec]:
        """The grids of the quantized layers that run in the block at this path."""
        inside = self.anatomy.paths("block", block)
        return {
            path: rule.spec for path in inside if (rule := self.rules.get(path)) and rule.spec is not None
        }

    def method(self, block: str) -> Mixed | None:
        """The method of a block: those of its layers together; None where it stays float."""
        names = {path: self.rules[path].method for path in self.specs(block)}
        return Mixed(self.methods, names) if names else None


def assigned(network: Network, recipe: Recipe) -> Assigned:
    """The rule of every layer that the recipe quantizes, all of it checked; nothing is computed.

    Raises UserError, naming recipe and layer, for unknown methods and fields, for groups that do not divide, and for a
    method that cannot do what is asked.
    """
    where, anatomy = f"recipe {recipe.name}", network.anatomy
    layers = anatomy.modules(network)
    sites = [anatomy.site(path) for path in layers]
    assignment = recipe.assign(sites)
    rules = {path: rule for path, rule in assignment.items() if rule.method != FLOAT}
    named = dict.fromkeys([*recipe.methods, *(rule.method for rule in rules.values())])
    methods = {name: built(METHODS, name, recipe.methods.get(name, {}), where) for name in named}
    recipe.check_used(sites, get_args(Role))
    for path, rule in rules.items():
        if rule.spec is not None:
            anatomy.site(path).check_groups(rule.spec, capture.channels(layers[path]), where)
    if not rules:
        raise UserError(where, got="no layer that is quantized", expected="one at least")
    found = Assigned(rules, methods, anatomy)
    try:
        embedders.check(found.phase("prepare", "begin", "finish"))
    except UserError as error:
        raise UserError(f"{where}: {error.what}", got=error.got, remedy=error.remedy) from error
    return found
