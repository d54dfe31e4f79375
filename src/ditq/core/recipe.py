"""Recipes: which method puts which layer on which grid, as one JSON file.

    {"kind": "ditq.recipe", "version": 1, "about": "one line",
     "layers": [{"roles": ["modulation"], "method": "float", "why": "it is computed once a run"},
                {"paths": ["*.mlp.fc2"], "method": "gptq", "bits": 6, "group_size": 64},
                {"paths": ["*"], "method": "gptq", "bits": 4, "group_size": 64}],
     "methods": {"gptq": {"act_order": true}},
     "activations": {"bits": 8}}

The first line of `layers` that matches a layer decides over it: a glob of `paths` matches its path, or one of `roles`
is its role in the model's anatomy. Roles are the same in all families, so that one recipe serves them all. Every layer
must be matched, so that what stays unquantized stands in the recipe too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.spec import Spec

KIND, VERSION = "ditq.recipe", 1
FLOAT = "float"
"""The method of layers that stay as they are."""
PRESETS = Path(__file__).parents[1] / "presets"


@runtime_checkable
class Layer(Protocol):
    """What a recipe asks of a layer: `ditq.models.anatomy.Site` has it."""

    @property
    def path(self) -> str:
        """Its module path."""
        ...

    @property
    def role(self) -> str:
        """What it is for."""
        ...


@dataclass(frozen=True)
class Rule:
    """One line of a recipe: these layers, by this method, on this grid."""

    paths: tuple[str, ...]
    method: str
    spec: Spec | None
    """None where the method is `float`."""
    why: str = ""
    roles: tuple[str, ...] = ()

    def matches(self, layer: Layer) -> bool:
        """True when one of the globs matches its whole path (* matches dots too), or its role is among the roles."""
        return layer.role in self.roles or any(fnmatchcase(layer.path, glob) for glob in self.paths)


@dataclass(frozen=True)
class Recipe:
    """Rules in the order in which they are tried, hyper-parameters by method, and what is asked of the activations."""

    name: str
    rules: tuple[Rule, ...]
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    activations: dict[str, Any] | None = None
    """None: activations stay as they are."""
    about: str = ""

    def assign(self, layers: Iterable[Layer]) -> dict[str, Rule]:
        """The rule of each layer, by path. Raises UserError for a layer that no rule matches."""
        assigned: dict[str, Rule] = {}
        for layer in layers:
            rule = next((rule for rule in self.rules if rule.matches(layer)), None)
            if rule is None:
                raise UserError(
                    f"recipe {self.name}: {layer.path}",
                    got="no line that matches it",
                    remedy='end with {"paths": ["*"], "method": "float"} to leave the rest unquantized',
                )
            assigned[layer.path] = rule
        return assigned

    def to_json(self) -> dict[str, Any]:
        """The recipe as its file holds it."""
        layers = []
        for rule in self.rules:
            line: dict[str, Any] = {"paths": list(rule.paths)} if rule.paths else {}
            line |= {"roles": list(rule.roles)} if rule.roles else {}
            line["method"] = rule.method
            if rule.spec is not None:
                line |= {
                    "bits": rule.spec.bits,
                    "symmetric": rule.spec.symmetric,
                    "group_size": rule.spec.group_size,
                }
            layers.append(line | ({"why": rule.why} if rule.why else {}))
        return {
            "kind": KIND,
            "version": VERSION,
            "about": self.about,
            "layers": layers,
            "methods": self.methods,
            "activations": self.activations,
        }


def plain_recipe(
    name: str,
    method: str,
    spec: Spec,
    fields: dict[str, Any] | None = None,
    activations: dict[str, Any] | None = None,
    about: str = "",
) -> Recipe:
    """One method on one grid for the layers of all blocks; first and last layers and adaLN stay as they are.

    `fields` are the method's hyper-parameters, where they are not its defaults.
    """
    rules = (
        Rule(
            (),
            FLOAT,
            None,
            "first and last layers: few weights, and all of the picture passes through them",
            ("embedder", "head"),
        ),
        Rule(
            (),
            FLOAT,
            None,
            "computed once a run for all steps, and every token is multiplied by it",
            ("modulation",),
        ),
        Rule(("*",), method, spec),
    )
    return Recipe(name, rules, {method: fields} if fields else {}, activations, about)


def blocks_alone(recipe: Recipe, blocks: Sequence[str], kept: Sequence[str]) -> Recipe:
    """The recipe for the blocks `kept` of all `blocks`, by their paths; the others stay as they are."""
    others = tuple(f"{path}.*" for path in blocks if path not in kept)
    if not others:
        return recipe
    rule = Rule(others, FLOAT, None, f"only {len(kept)} of {len(blocks)} blocks are asked for")
    return replace(recipe, rules=(rule, *recipe.rules))


def presets() -> list[str]:
    """The names of the recipes that come with ditq."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def read_recipe(name: str) -> Recipe:
    """The recipe of a JSON file, or the preset of that name. Raises UserError that names the line at fault."""
    path = Path(name)
    if path.suffix != ".json":
        path = PRESETS / f"{name}.json"
        if name not in presets():
            raise UserError("--recipe", got=name, expected=f"a .json file, or one of {', '.join(presets())}")
    return recipe_from(read_json(path), path.stem, str(path))


def recipe_from(content: Any, name: str, source: str) -> Recipe:
    """The recipe of parsed JSON; `source` stands in errors."""
    if not isinstance(content, dict) or (content.get("kind"), content.get("version")) != (KIND, VERSION):
        raise UserError(source, got="another file", expected=f"kind {KIND!r}, version {VERSION}")
    _known(source, content, {"kind", "version", "about", "layers", "methods", "activations"})
    lines = content.get("layers")
    if not isinstance(lines, list) or not lines:
        raise UserError(f"{source}: layers", got=lines, expected="a list with a line at least")
    return Recipe(
        name=name,
        rules=tuple(_rule(f"{source}: layers[{i}]", line) for i, line in enumerate(lines)),
        methods=content.get("methods") or {},
        activations=content.get("activations"),
        about=content.get("about", ""),
    )


def _rule(where: str, line: Any) -> Rule:
    named = isinstance(line, dict) and (line.get("paths") or line.get("roles"))
    if not named or not isinstance(line.get("method"), str):
        expected = '{"paths": [globs] or "roles": [roles], "method": name, ...}'
        raise UserError(where, got=line, expected=expected)
    _known(where, line, {"paths", "roles", "method", "bits", "symmetric", "group_size", "why"})
    method, spec = line["method"], None
    if method != FLOAT:
        if not isinstance(line.get("bits"), int):
            raise UserError(f"{where}: bits", got=line.get("bits"), expected="from 2 to 8")
        spec = Spec(line["bits"], line.get("symmetric", True), line.get("group_size"))
    paths, roles = (tuple(line.get(name, ())) for name in ("paths", "roles"))
    return Rule(paths, method, spec, line.get("why", ""), roles)


def _known(where: str, content: dict[str, Any], names: set[str]) -> None:
    unknown = sorted(set(content) - names)
    if unknown:
        raise UserError(where, got=", ".join(unknown), expected=f"only {', '.join(sorted(names))}")
