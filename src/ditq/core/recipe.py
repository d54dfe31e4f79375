"""Recipes: which method puts which layer on which grid, as one JSON file.

    {"kind": "ditq.recipe", "version": 1, "about": "one line",
     "layers": [{"paths": ["*.adaLN_modulation.*"], "method": "float", "why": "it is computed once a run"},
                {"paths": ["multimodal_transformer_blocks.*"], "method": "gptq", "bits": 4, "group_size": 64},
                {"paths": ["*"], "method": "float"}],
     "methods": {"gptq": {"act_order": true}},
     "activations": {"bits": 8}}

The first line of `layers` whose glob matches a layer's path decides over it; every layer must be matched, so that what
stays unquantized stands in the recipe too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.spec import Spec

KIND, VERSION = "ditq.recipe", 1
FLOAT = "float"
"""The method of layers that stay as they are."""
PRESETS = Path(__file__).parents[1] / "presets"


@dataclass(frozen=True)
class Rule:
    """One line of a recipe: these paths, by this method, on this grid."""

    paths: tuple[str, ...]
    method: str
    spec: Spec | None
    """None where the method is `float`."""
    why: str = ""

    def matches(self, path: str) -> bool:
        """True when one of the globs matches the whole path; * matches dots too."""
        return any(fnmatchcase(path, glob) for glob in self.paths)


@dataclass(frozen=True)
class Recipe:
    """Rules in the order in which they are tried, hyper-parameters by method, and what is asked of the activations."""

    name: str
    rules: tuple[Rule, ...]
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    activations: dict[str, Any] | None = None
    """None: activations stay as they are."""
    about: str = ""

    def assign(self, paths: Iterable[str]) -> dict[str, Rule]:
        """The rule of each layer. Raises UserError for a layer that no rule matches."""
        assigned: dict[str, Rule] = {}
        for path in paths:
            rule = next((rule for rule in self.rules if rule.matches(path)), None)
            if rule is None:
                raise UserError(
                    f"recipe {self.name}: {path}",
                    got="no line that matches it",
                    remedy='end with {"paths": ["*"], "method": "float"} to leave the rest unquantized',
                )
            assigned[path] = rule
        return assigned

    def to_json(self) -> dict[str, Any]:
        """The recipe as its file holds it."""
        layers = []
        for rule in self.rules:
            line: dict[str, Any] = {"paths": list(rule.paths), "method": rule.method}
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
            ("context_embedder", "t_embedder.*", "y_embedder.*", "final_layer.*"),
            FLOAT,
            None,
            "first and last layers: few weights, and all of the picture passes through them",
        ),
        Rule(
            ("*.adaLN_modulation.*",),
            FLOAT,
            None,
            "computed once a run for all steps, and every token is multiplied by it",
        ),
        Rule(("multimodal_transformer_blocks.*",), method, spec),
    )
    return Recipe(name, rules, {method: fields} if fields else {}, activations, about)


def first_blocks(recipe: Recipe, count: int, of: int) -> Recipe:
    """The recipe for the first `count` of `of` blocks; the others stay as they are.

    Raises UserError unless `count` is from 1 to `of`.
    """
    if not 1 <= count <= of:
        raise UserError("--blocks", got=count, expected=f"from 1 to {of}, the model's blocks")
    if count == of:
        return recipe
    others = tuple(f"multimodal_transformer_blocks.{number}.*" for number in range(count, of))
    rule = Rule(others, FLOAT, None, f"only the first {count} of {of} blocks are asked for")
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
    if not isinstance(line, dict) or not line.get("paths") or not isinstance(line.get("method"), str):
        raise UserError(where, got=line, expected='{"paths": [globs], "method": name, ...}')
    _known(where, line, {"paths", "method", "bits", "symmetric", "group_size", "why"})
    method, spec = line["method"], None
    if method != FLOAT:
        if not isinstance(line.get("bits"), int):
            raise UserError(f"{where}: bits", got=line.get("bits"), expected="from 2 to 8")
        spec = Spec(line["bits"], line.get("symmetric", True), line.get("group_size"))
    return Rule(tuple(line["paths"]), method, spec, line.get("why", ""))


def _known(where: str, content: dict[str, Any], names: set[str]) -> None:
    unknown = sorted(set(content) - names)
    if unknown:
        raise UserError(where, got=", ".join(unknown), expected=f"only {', '.join(sorted(names))}")
