"""Recipes: which method puts which layer on which grid, as one JSON file.

    {"kind": "ditq.recipe", "version": 1, "about": "one line",
     "layers": [{"roles": ["modulation"], "method": "float", "why": "it is computed once a run"},
                {"paths": ["*.mlp.fc2"], "method": "gptq", "bits": 6, "group_size": 64},
                {"paths": ["*"], "method": "gptq", "bits": 4, "group_size": 64}],
     "methods": {"gptq": {"act_order": true}},
     "activations": {"bits": 8},
     "tuning": {"steps": 300}}

The first line of `layers` that matches a layer decides over it: a glob of `paths` matches its path, or one of `roles`
is its role in the model's anatomy. Roles are the same in all families, so that one recipe serves them all. Every layer
must be matched, so that what stays unquantized stands in the recipe too.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from ditq.core.errors import UserError
from ditq.core.files import listed, read_json
from ditq.core.schema import FILLED, checked, shown, within
from ditq.core.spec import Spec

KIND, VERSION = "ditq.recipe", 1
FLOAT = "float"
"""The method of layers that stay as they are."""
PRESETS = Path(__file__).parents[1] / "presets"


Glob = Annotated[str, FILLED]


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
    restricts: bool = False
    """Made by `blocks_alone`, in front of the recipe's own lines."""

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
    tuning: dict[str, Any] | None = None
    """Of a last pass over scales and biases, `ditq.quantization.tuning`; None: there is none."""

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

    def check_used(self, layers: Sequence[Layer], roles: Collection[str]) -> None:
        """Raises UserError for what has no effect: fields of a method without a line, a glob that matches nothing, a
        role that is none of `roles`, and a line whose layers are all decided by lines before it.

        A role that only other families have is no error, since one recipe serves them all; nor is a last line for
        whatever is left.
        """
        own = [rule for rule in self.rules if not rule.restricts]
        for method in self.methods:
            if all(rule.method != method for rule in own):
                named = ", ".join(dict.fromkeys(rule.method for rule in own))
                raise UserError(
                    f"recipe {self.name}: methods", got=repr(method), expected=f"those of lines: {named}"
                )
        left = {layer.path for layer in layers}
        for i, rule in enumerate(own):
            where = f"recipe {self.name}: layers[{i}]"
            for glob in rule.paths:
                if not any(fnmatchcase(layer.path, glob) for layer in layers):
                    near = get_close_matches(glob, [layer.path for layer in layers], 1, 0)
                    remedy = f"paths look like {near[0]}, and * stands for any part" if near else None
                    raise UserError(f"{where}: paths", got=f"{glob!r}, which matches no layer", remedy=remedy)
            for role in rule.roles:
                if role not in roles:
                    raise UserError(f"{where}: roles", got=repr(role), expected=f"some of {', '.join(roles)}")
            matched = {layer.path for layer in layers if rule.matches(layer)}
            if matched and not matched & left and "*" not in rule.paths:
                got = "a line that decides nothing: lines before it match all of its layers"
                raise UserError(
                    where, got=got, remedy="put it before them: the first line that matches decides"
                )
            left -= matched

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
            **({"tuning": self.tuning} if self.tuning is not None else {}),
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
    """The recipe for the blocks `kept` of all `blocks`, by their paths; all other layers stay as they are."""
    others = tuple(f"{path}.*" for path in blocks if path not in kept)
    if not others:
        return recipe
    why = f"only {len(kept)} of {len(blocks)} blocks are asked for"
    rule = Rule(others, FLOAT, None, why, ("embedder", "head"), restricts=True)
    return replace(recipe, rules=(rule, *recipe.rules))


def presets() -> list[str]:
    """The names of the recipes that come with ditq."""
    return sorted(path.stem for path in listed(PRESETS, "*.json"))


def read_recipe(name: str) -> Recipe:
    """The recipe of a JSON file, or the preset of that name. Raises UserError that names the line at fault."""
    path = Path(name)
    if path.suffix != ".json":
        path = PRESETS / f"{name}.json"
        if name not in presets():
            raise UserError("--recipe", got=name, expected=f"a .json file, or one of {', '.join(presets())}")
    return recipe_from(read_json(path), path.stem, str(path))


@dataclass(frozen=True)
class _Line:
    """A line of `layers` as JSON holds it."""

    method: str
    paths: tuple[Glob, ...] = ()
    roles: tuple[Glob, ...] = ()
    bits: Annotated[int, within(2, 8)] | None = None
    symmetric: bool | None = None
    group_size: Literal[32, 64, 128] | None = None
    why: str = ""


@dataclass(frozen=True)
class _Content:
    """A recipe as JSON holds it."""

    kind: str
    version: int
    layers: Annotated[list[dict[str, Any]], FILLED]
    about: str = ""
    methods: dict[str, dict[str, Any]] | None = None
    activations: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None


def recipe_from(content: Any, name: str, source: str) -> Recipe:
    """The recipe of parsed JSON; `source` stands in errors."""
    if not isinstance(content, dict) or (content.get("kind"), content.get("version")) != (KIND, VERSION):
        raise UserError(source, got="another file", expected=f"kind {KIND!r}, version {VERSION}")
    found = checked(content, _Content, source)
    rules = tuple(_rule(f"{source}: layers[{i}]", line) for i, line in enumerate(found.layers))
    return Recipe(name, rules, found.methods or {}, found.activations, found.about, found.tuning)


def _rule(where: str, content: Any) -> Rule:
    line = checked(content, _Line, where)
    if not line.paths and not line.roles:
        expected = '{"paths": [globs] or "roles": [roles], "method": name, ...}'
        raise UserError(where, got=shown(content), expected=expected)
    if line.method == FLOAT:
        for key in ("bits", "symmetric", "group_size"):
            if getattr(line, key) is not None:
                remedy = "leave it out, or name a method that quantizes"
                raise UserError(f"{where}: {key}", got="one for layers that stay float", remedy=remedy)
        return Rule(line.paths, FLOAT, None, line.why, line.roles)
    if line.bits is None:
        raise UserError(f"{where}: bits", got="nothing: the key is missing", expected="from 2 to 8")
    symmetric = True if line.symmetric is None else line.symmetric
    return Rule(line.paths, line.method, Spec(line.bits, symmetric, line.group_size), line.why, line.roles)
