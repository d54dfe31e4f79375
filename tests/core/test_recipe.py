"""Recipes decide by their first matching line, survive their file, and name the line at fault."""

import json
from copy import deepcopy

import pytest

from ditq.core.errors import UserError
from ditq.core.recipe import FLOAT, blocks_alone, plain_recipe, presets, read_recipe, recipe_from
from ditq.core.spec import Spec
from ditq.models import load
from ditq.models.anatomy import Site

CONTENT = {
    "kind": "ditq.recipe",
    "version": 1,
    "about": "a test",
    "layers": [
        {"paths": ["*.adaLN_modulation.*"], "method": "float", "why": "cheap"},
        {"paths": ["blocks.*.fc2"], "method": "rtn", "bits": 8, "symmetric": False, "group_size": 32},
        {"paths": ["blocks.*"], "method": "gptq", "bits": 4},
        {"paths": ["*"], "method": "float"},
    ],
    "methods": {"gptq": {"act_order": True}},
    "activations": {"bits": 8},
}


def sites(*paths):
    return [Site(path, "projection") for path in paths]


def test_the_first_matching_line_decides():
    recipe = recipe_from(CONTENT, "test", "test.json")
    assigned = recipe.assign(
        sites("blocks.0.adaLN_modulation.layers.1", "blocks.0.fc2", "blocks.1.mlp.fc1", "head")
    )
    assert [(rule.method, rule.spec) for rule in assigned.values()] == [
        (FLOAT, None),
        ("rtn", Spec(8, symmetric=False, group_size=32)),
        ("gptq", Spec(4)),
        (FLOAT, None),
    ]


def test_a_layer_that_no_line_matches_is_named():
    content = deepcopy(CONTENT)
    content["layers"].pop()
    with pytest.raises(UserError, match="recipe test: head: got no line that matches it"):
        recipe_from(content, "test", "test.json").assign(sites("blocks.0.fc2", "head"))


def test_a_recipe_survives_its_file(tmp_path):
    recipe = recipe_from(CONTENT, "mine", "test.json")
    (tmp_path / "mine.json").write_text(json.dumps(recipe.to_json()))
    assert read_recipe(str(tmp_path / "mine.json")) == recipe


@pytest.mark.parametrize("name", presets())
def test_presets_decide_over_every_layer_of_a_model(name):
    recipe = read_recipe(name)
    anatomy = load("mini").skeleton().anatomy
    assigned = recipe.assign(anatomy.site(path) for path in anatomy.modules(load("mini").skeleton()))
    quantized = [path for path, rule in assigned.items() if rule.method != FLOAT]
    assert sum(path.endswith(("fc1", "fc2")) for path in quantized) == 18
    assert recipe.about.endswith(".")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(version=2), "expected kind 'ditq.recipe', version 1"),
        (lambda c: c.update(layers=[]), "layers: got"),
        (lambda c: c.update(colour="red"), "got the unknown key 'colour'"),
        (lambda c: c["layers"][1].pop("bits"), r"layers\[1\]: bits: got nothing: the key is missing"),
        (lambda c: c["layers"][1].update(bits=9), "bits: got 9"),
        (lambda c: c["layers"][2].update(group_size=48), "group_size: got 48; expected 32"),
        (lambda c: c["layers"][2].update(metod="gptq"), r"layers\[2\]: got the unknown key 'metod'"),
        (lambda c: c["layers"][0].pop("paths"), r"layers\[0\]"),
    ],
)
def test_a_wrong_line_is_named(change, says):
    content = deepcopy(CONTENT)
    change(content)
    with pytest.raises(UserError, match=says):
        recipe_from(content, "test", "test.json")


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UserError, match=r"a \.json file, or one of .*w4a8-qronos"):
        read_recipe("w1a1")


@pytest.mark.parametrize("name", ["w4a8-adaround", "w4a8-gptq", "w4a8-qronos", "w4a8-rtn", "w8a8"])
def test_plain_presets_treat_the_blocks_as_plain_recipes_do(name):
    preset = read_recipe(name)
    bits, method = (8, "rtn") if name == "w8a8" else (4, name.partition("-")[2])
    plain = plain_recipe(name, method, Spec(bits), None, {"bits": 8})
    assert preset.rules[-1] == plain.rules[-1] and preset.activations == plain.activations
    assert {role for rule in preset.rules[:-1] for role in rule.roles} == {"modulation", "embedder", "head"}
    own = {"adaround": {"iterations": 400}} if name == "w4a8-adaround" else {}
    assert {rule.method for rule in preset.rules[:-1]} == {"rtn"}
    assert preset.methods == {"rtn": {"search": True}, **own}


def test_a_role_decides_in_any_family():
    lines = [
        {"roles": ["modulation", "head"], "method": "float"},
        {"paths": ["*"], "method": "rtn", "bits": 4},
    ]
    recipe = recipe_from({**CONTENT, "layers": lines}, "roles", "r.json")
    layers = [Site("a", "modulation"), Site("b", "convolution"), Site("c", "head")]
    assert [rule.method for rule in recipe.assign(layers).values()] == [FLOAT, "rtn", FLOAT]
    assert recipe_from(recipe.to_json(), "roles", "r.json") == recipe


def test_blocks_that_are_left_out_come_before_all_other_lines():
    blocks = [f"blocks.{i}" for i in range(3)]
    recipe = blocks_alone(plain_recipe("r", "gptq", Spec(4)), blocks, blocks[:2])
    layers = sites(*(f"{block}.mlp.fc1" for block in blocks))
    assert [rule.method for rule in recipe.assign(layers).values()] == ["gptq", "gptq", FLOAT]
    assert blocks_alone(recipe, blocks, blocks) is recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c["layers"][1].update(paths="*.mlp.fc1"),
            r'layers\[1\]: paths: got .*; write \["\*.mlp.fc1"\]',
        ),
        (lambda c: c["layers"][1].update(paths=[""]), r"layers\[1\]: paths\[0\]: got ''"),
        (lambda c: c["layers"][1].update(paths=[3]), r"layers\[1\]: paths\[0\]: got 3; expected a text"),
        (lambda c: c["layers"][1].update(roles="head"), r"layers\[1\]: roles: got 'head'"),
        (lambda c: c["layers"][1].update(group_size=64.0), r"layers\[1\]: group_size: got 64.0"),
        (lambda c: c["layers"][1].update(bits=4.0), r"layers\[1\]: bits: got 4.0"),
        (lambda c: c["layers"][1].update(bits=True), r"layers\[1\]: bits: got true"),
        (lambda c: c["layers"][1].update(symmetric=1), r"layers\[1\]: symmetric: got 1"),
        (lambda c: c["layers"][1].update(method=["rtn"]), r"layers\[1\]: method: got"),
        (lambda c: c["layers"][0].update(bits=4), r"layers\[0\]: bits: got one for layers that stay float"),
        (lambda c: c.update(layers={"paths": ["*"]}), "layers: got"),
        (lambda c: c.update(layers=[["*"]]), r"layers\[0\]: got"),
        (lambda c: c.update(methods=["gptq"]), r"methods: got \[\"gptq\"\]; expected an object"),
        (lambda c: c.update(methods={"gptq": [1]}), r"methods: gptq: got \[1\]"),
        (lambda c: c.update(activations=8), "activations: got 8"),
        (lambda c: c.update(about=None), "about: got null"),
    ],
)
def test_a_value_of_another_type_is_named(change, says):
    content = deepcopy(CONTENT)
    change(content)
    with pytest.raises(UserError, match=f"test.json: {says}"):
        recipe_from(content, "test", "test.json")


LAYERS = [Site("head", "head"), *sites("blocks.0.mlp.fc1", "blocks.0.mlp.fc2")]
REST = {"paths": ["*"], "method": "float"}


@pytest.mark.parametrize(
    ("lines", "methods", "says"),
    [
        (
            [{"paths": ["*.fc3"], "method": "rtn", "bits": 4}],
            {},
            r"layers\[0\]: paths: got '\*.fc3', which matches no",
        ),
        (
            [{"roles": ["mlp"], "method": "rtn", "bits": 4}],
            {},
            r"layers\[0\]: roles: got 'mlp'; expected some of head",
        ),
        (
            [REST, {"paths": ["*.fc2"], "method": "rtn", "bits": 4}],
            {},
            r"layers\[1\]: got a line that decides nothing",
        ),
        ([], {"gptq": {"damping": 0.1}}, "methods: got 'gptq'; expected those of lines: float"),
    ],
)
def test_what_has_no_effect_is_refused(lines, methods, says):
    content = {**CONTENT, "layers": [*lines, REST], "methods": methods}
    recipe = recipe_from(content, "mine", "mine.json")
    with pytest.raises(UserError, match=f"recipe mine: {says}"):
        recipe.check_used(LAYERS, ("head", "modulation", "projection"))


def test_roles_of_other_families_and_blocks_that_are_left_out_are_no_mistakes():
    lines = [
        {"roles": ["modulation"], "method": "float"},
        {"paths": ["blocks.0.*"], "method": "rtn", "bits": 4},
        REST,
    ]
    recipe = recipe_from({**CONTENT, "layers": lines, "methods": {}}, "mine", "mine.json")
    recipe.check_used(LAYERS, ("head", "modulation", "projection"))
    blocks_alone(recipe, ["blocks.0", "blocks.1"], ["blocks.1"]).check_used(LAYERS, ("modulation",))
