"""At the real sizes the modules hold as many parameters as the published checkpoints. Nothing is evaluated."""

from types import SimpleNamespace

import pytest
from mlx.utils import tree_flatten

from ditq.models.cost import parameter_count
from ditq.models.diffusionkit.corrections import DK, CorrectedMMDiT, CorrectedT5
from ditq.models.diffusionkit.sd3 import CONFIGS
from ditq.models.diffusionkit.vae import VAEShape
from ditq.models.mmdit import MMDiT

T5_XXL = SimpleNamespace(
    d_model=4096, d_kv=64, d_ff=10240, num_heads=64, num_layers=24, vocab_size=32128, feed_forward_proj="gated-gelu",
    relative_attention_num_buckets=32, relative_attention_max_distance=128, layer_norm_epsilon=1e-6,
)  # fmt: skip
CLIP = DK.config.CLIPTextModelConfig


def count(module) -> int:
    return sum(array.size for _, array in tree_flatten(module.parameters()))


def test_text_encoders():
    assert count(CorrectedT5(T5_XXL)) == 4_762_310_656
    assert count(DK.clip.CLIPTextModel(CLIP(12, 768, 12, 77, 49408, 768, "quick_gelu"))) == 123_650_304
    assert count(DK.clip.CLIPTextModel(CLIP(32, 1280, 20, 77, 49408, 1280, "gelu"))) == 694_659_840


def test_vae():
    shape = VAEShape()
    blocks, layers, groups = list(shape.block_out_channels), shape.layers_per_block, shape.groups
    decoder = DK.vae.VAEDecoder(shape.latent_channels, 3, blocks, layers + 1, groups)
    encoder = DK.vae.VAEEncoder(3, 2 * shape.latent_channels, blocks, layers, groups)
    assert count(decoder) + count(encoder) == 83_819_683


@pytest.mark.parametrize(
    "name, config", [("sd3-medium", DK.config.SD3_2b), ("sd3.5-large", DK.config.SD3_8b)]
)
def test_transformers_are_as_large_as_ours(name, config):
    assert count(CorrectedMMDiT(config)) == parameter_count(MMDiT(CONFIGS[name]))
