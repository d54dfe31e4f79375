"""What a diffusers folder says of its weights is held against the model that it is given for."""

import json

import mlx.core as mx
import pytest

from ditq.core.errors import UserError
from ditq.models.diffusers_folder import check_folder_config
from ditq.models.diffusionkit.vae import VAE
from ditq.models.mmdit.loading import diffusers_fields, load_mmdit
from tests.models.diffusionkit.small import SHAPE, ldm_vae_weights
from tests.models.families import FAMILIES, stability_weights, to_mlx

CONFIG = FAMILIES["sd3.5-medium"]


@pytest.fixture
def folder(tmp_path):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), to_mlx(stability_weights(CONFIG)))
    return tmp_path


def test_a_folder_that_says_what_the_model_is_loads(folder):
    (folder / "config.json").write_text(json.dumps(diffusers_fields(CONFIG) | {"sample_size": 64}))
    assert load_mmdit(folder, CONFIG).multimodal_transformer_blocks


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (
            "num_attention_heads",
            8,
            "num_attention_heads 8; expected num_attention_heads 4, as a model of this shape has",
        ),
        ("attention_head_dim", "16", "attention_head_dim '16'"),
        ("qk_norm", None, "qk_norm null; expected qk_norm 'rms_norm'"),
        (
            "dual_attention_layers",
            [0],
            r"dual_attention_layers \[0\]; expected dual_attention_layers \[0, 1\]",
        ),
        ("_class_name", "FluxTransformer2DModel", "_class_name 'FluxTransformer2DModel'"),
    ],
)
def test_a_folder_that_says_something_else_is_refused(folder, field, value, told):
    (folder / "config.json").write_text(json.dumps(diffusers_fields(CONFIG) | {field: value}))
    with pytest.raises(UserError, match=f"config.json: got {told}"):
        load_mmdit(folder, CONFIG)


@pytest.mark.parametrize("content", ["null", "[1]", "{"])
def test_what_is_no_config_is_told(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json: got"):
        load_mmdit(folder, CONFIG)


def test_an_empty_list_is_as_none_and_what_is_not_said_is_not_held_against_a_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"dual_attention_layers": null}')
    check_folder_config(tmp_path, {"dual_attention_layers": [], "num_layers": 3}, "this")
    check_folder_config(tmp_path / "nowhere", {"num_layers": 3}, "this")


def test_the_vae_of_another_family_is_told_by_its_scale(tmp_path):
    mx.save_safetensors(str(tmp_path / "a.safetensors"), to_mlx(ldm_vae_weights(SHAPE)))
    flux = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    (tmp_path / "config.json").write_text(json.dumps(flux))
    with pytest.raises(
        UserError,
        match="0.3611, shift_factor 0.1159, as the VAE of FLUX has; expected scaling_factor 1.5305",
    ):
        VAE(tmp_path, SHAPE).decoder()
    (tmp_path / "config.json").write_text(json.dumps({"scaling_factor": 1.5305, "shift_factor": 0.0609}))
    assert VAE(tmp_path, SHAPE).decoder()
