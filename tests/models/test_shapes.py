"""A network's shape from a file: its fields are checked, and held against the model that the file names."""

from dataclasses import asdict

import pytest

from ditq.core.errors import UserError
from ditq.models import check_same_shape, load, network_from
from ditq.models.mini import MINI
from ditq.models.mmdit.config import PUBLISHED

FIELDS = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(MINI).items()}


def test_a_network_is_made_from_the_fields_as_json_holds_them():
    assert network_from("mmdit", FIELDS, "config.json").config == MINI


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_heads", 0, "num_heads: got 0; expected a whole number, without a decimal point from 1 to 1024"),
        ("num_heads", "6", "num_heads: got '6'; expected a whole number"),
        ("num_heads", 6.0, "num_heads: got 6.0; expected a whole number"),
        ("num_heads", True, "num_heads: got true; expected a whole number"),
        ("num_heads", 7, "num_heads: got 7; expected a divisor of the width 192"),
        ("depth_multimodal", 10**9, "depth_multimodal: got 1000000000"),
        ("depth_multimodal", -1, "depth_multimodal: got -1"),
        ("hidden_size_override", [192], "hidden_size_override: got [192]"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps: got NaN"),
        ("use_qk_norm", 1, "use_qk_norm: got 1; expected true or false"),
        ("dual_attention_blocks", [5], "dual_attention_blocks: got (5,); expected numbers of blocks, 0 to 4"),
        ("dual_attention_blocks", 4, "dual_attention_blocks: got 4; expected a list of whole numbers"),
        ("frequency_embed_dim", 255, "frequency_embed_dim: got 255; expected an even number"),
        ("novel", 1, "got the unknown key 'novel'"),
    ],
)
def test_a_field_that_makes_no_network_is_named(field, value, told):
    with pytest.raises(UserError) as caught:
        network_from("mmdit", FIELDS | {field: value}, "my/config.json")
    assert str(caught.value).startswith("my/config.json: model_config: ") and told in str(caught.value)


@pytest.mark.parametrize("config", [None, [], "mmdit"])
def test_no_object_of_fields_is_told(config):
    with pytest.raises(UserError, match="my.json: model_config: got .* expected an object"):
        network_from("mmdit", config, "my.json")


def test_fields_are_held_against_the_model_of_that_name():
    check_same_shape("mini", FIELDS)
    for name, config in PUBLISHED.items():
        check_same_shape(name, asdict(config))
    check_same_shape("no name of ours", {"num_heads": 3})
    with pytest.raises(UserError) as caught:
        check_same_shape("mini", FIELDS | {"num_heads": 12}, "out/config.json")
    assert str(caught.value).startswith(
        "out/config.json: model_config: got num_heads 12; expected num_heads 6, as mini has; use the file"
    )
    with pytest.raises(
        UserError, match="got mlp_ratio 2, patch_size 4; expected mlp_ratio 4, patch_size 2, as mini has"
    ):
        check_same_shape("mini", FIELDS | {"patch_size": 4, "mlp_ratio": 2})
    left_out = {key: value for key, value in FIELDS.items() if key != "hidden_size_override"}
    with pytest.raises(UserError, match="hidden_size_override null; expected .*hidden_size_override 192"):
        check_same_shape("mini", left_out | {"num_heads": 4})


def test_the_loaded_network_has_the_shape_of_the_skeleton():
    assert load("mini").network().config == load("mini").skeleton().config
