"""CLIP and T5 against `transformers`, on random weights."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch

from ditq.core.errors import UserError
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.corrections import DK, CorrectedT5
from ditq.models.diffusionkit.encoders import clip_encoder, t5_encoder
from ditq.models.diffusionkit.hub import Files
from tests.models.diffusionkit.small import WIDTH, save

PROMPTS = ["a photo of a castle in the snow", "", "the red fox, don't stop 日本!"]


def torch_clip(model, ids):
    with torch.no_grad():
        out = model(torch.from_numpy(ids), output_hidden_states=True)
    return out.hidden_states[-2].numpy(), out.text_embeds.numpy()


def torch_t5(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids)).last_hidden_state.numpy()


@pytest.mark.parametrize("which", ["l", "g"])
def test_clip_equals_transformers(small, which):
    ids = text.clip_ids(small.files, which, PROMPTS)
    states, pooled = text.run_clip(clip_encoder(small.files, which), ids)
    wanted_states, wanted_pooled = torch_clip(getattr(small, f"clip_{which}"), ids)
    assert np.abs(wanted_states).max() > 0.5
    assert np.abs(np.array(states) - wanted_states).max() <= 1e-4
    assert np.abs(np.array(pooled) - wanted_pooled).max() <= 1e-4


def test_the_two_clips_have_different_activations(small):
    ids = text.clip_ids(small.files, "l", PROMPTS)
    encoder = clip_encoder(small.files, "l")
    right, _ = text.run_clip(encoder, ids)
    for layer in encoder.layers:
        layer.act = nn.gelu
    wrong, _ = text.run_clip(encoder, ids)
    assert mx.abs(right - wrong).max().item() > 1e-3


def test_pooling_takes_the_first_end_token(small):
    ids = text.clip_ids(small.files, "l", ["the red fox"])
    end = int(ids.max())
    assert (ids[0] == end).sum() > 70  # the filling is the end token, too
    encoder = clip_encoder(small.files, "l")
    output = encoder(mx.array(ids))
    at_end = encoder.text_projection(output.last_hidden_state[:, list(ids[0]).index(end)])
    assert mx.allclose(output.pooled_output, at_end, atol=1e-5)


def test_t5_equals_transformers(small):
    ids = text.t5_ids(small.files, PROMPTS)
    wanted = torch_t5(small.t5, ids)
    got = text.run_t5(t5_encoder(small.files), ids)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(np.array(got) - wanted).max() <= 1e-4


@pytest.mark.parametrize("tokens", [40, 120])
def test_t5_with_its_filling_hidden_equals_transformers(small, tokens):
    ids = text.t5_ids(small.files, PROMPTS, tokens)
    assert (
        ids.shape == (3, tokens) and (ids[1] != text.T5_PAD).sum() == 1
    )  # an empty prompt has its end alone
    with torch.no_grad():
        mask = torch.from_numpy((ids != text.T5_PAD).astype(np.int64))
        wanted = small.t5(torch.from_numpy(ids), attention_mask=mask).last_hidden_state.numpy()
    got = np.array(text.run_t5(t5_encoder(small.files), ids, masked=True))
    assert np.abs(got - wanted).max() <= 1e-4
    seen = np.array(text.run_t5(t5_encoder(small.files), ids))
    assert np.abs(got - seen)[1, 0].max() > 1e-3


def test_t5_far_positions_equal_transformers(small):
    ids = np.random.default_rng(0).integers(3, 128, (1, 300))
    got = text.run_t5(t5_encoder(small.files), ids)
    assert np.abs(np.array(got) - torch_t5(small.t5, ids)).max() <= 1e-4


def test_t5_computes_in_float32_with_16_bit_weights(small, tmp_path):
    halved = {key: value.half().numpy() for key, value in small.t5.state_dict().items()}
    halved["encoder.block.1.layer.1.DenseReluDense.wo.weight"] *= 3000  # overflows float16 when summed in it
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text((small.folder / "t5" / "config.json").read_text())
    save(tmp_path / "t5" / "t5xxl.safetensors", halved)
    encoder = t5_encoder(Files("sd3-medium", tmp_path))
    assert encoder.encoder.layers[0].attention.query_proj.weight.dtype == mx.float16
    got = text.run_t5(encoder, text.t5_ids(small.files, PROMPTS))
    assert got.dtype == mx.float32
    exact = small.t5.__class__(small.t5.config).eval()
    exact.load_state_dict({key: torch.from_numpy(value.astype(np.float32)) for key, value in halved.items()})
    assert np.abs(np.array(got) - torch_t5(exact, text.t5_ids(small.files, PROMPTS))).max() <= 1e-4


def test_stock_t5_fails_where_the_corrected_one_does_not(small):
    encoder = t5_encoder(small.files)
    ids = mx.array(text.t5_ids(small.files, PROMPTS))
    first = encoder(ids)
    assert mx.array_equal(first, encoder(ids))
    assert isinstance(encoder, CorrectedT5)
    if mx.default_device() == mx.cpu:
        stock = DK.t5.TransformerEncoder.__call__
        with pytest.raises(KeyError, match="memory_size"):
            stock(encoder.encoder, encoder.wte(ids))


def test_conditioning_is_laid_out_as_sd3_has_it(small):
    got = text.TextEncoders(small.files).encode(PROMPTS, WIDTH)
    ids = {which: text.clip_ids(small.files, which, PROMPTS) for which in "lg"}
    l_states, l_pooled = torch_clip(small.clip_l, ids["l"])
    g_states, g_pooled = torch_clip(small.clip_g, ids["g"])
    filling = np.zeros((3, 77, WIDTH - 80))
    t5 = torch_t5(small.t5, text.t5_ids(small.files, PROMPTS))
    wanted = np.concatenate([np.concatenate([l_states, g_states, filling], axis=-1), t5], axis=1)
    assert got.tokens.shape == (3, 154, WIDTH)
    assert np.abs(np.array(got.tokens) - wanted).max() <= 1e-4
    assert np.abs(np.array(got.pooled) - np.concatenate([l_pooled, g_pooled], axis=-1)).max() <= 1e-4


def test_without_t5_its_tokens_are_zeros(small):
    everything = text.TextEncoders(small.files).encode(PROMPTS, WIDTH)
    clip_only = text.TextEncoders(small.files, use_t5=False).encode(PROMPTS, WIDTH)
    assert mx.array_equal(clip_only.tokens[:, :77], everything.tokens[:, :77])
    assert not clip_only.tokens[:, 77:].any()
    assert mx.array_equal(clip_only.pooled, everything.pooled)


def test_prompts_do_not_see_each_other_or_the_batch_size(small):
    many = [f"{PROMPTS[i % 3]} {i}" for i in range(19)]
    together = text.TextEncoders(small.files).encode(many, WIDTH)
    alone = text.TextEncoders(small.files).encode(many[17:18], WIDTH)
    assert mx.allclose(together.tokens[17:18], alone.tokens, atol=1e-4)


def test_one_encoder_at_a_time(small, monkeypatch):
    import weakref

    alive: list[weakref.ref] = []
    for part, load in text.ENCODERS.items():

        def loading(files, load=load):
            assert not any(ref() is not None for ref in alive)
            encoder = load(files)
            alive.append(weakref.ref(encoder))
            return encoder

        monkeypatch.setitem(text.ENCODERS, part, loading)
    text.TextEncoders(small.files).encode(PROMPTS, WIDTH)
    assert len(alive) == 3 and all(ref() is None for ref in alive)


def test_a_config_without_a_field_and_weights_without_a_layer_are_named(small, tmp_path):
    (tmp_path / "clip_l").mkdir()
    (tmp_path / "clip_l" / "config.json").write_text('{"hidden_size": 32}')
    weights = {key: value.numpy() for key, value in small.clip_l.state_dict().items()}
    save(tmp_path / "clip_l" / "model.fp16.safetensors", weights)
    with pytest.raises(UserError, match="clip_l/config.json: num_hidden_layers: got nothing"):
        clip_encoder(Files("sd3-medium", tmp_path), "l")
    (tmp_path / "clip_l" / "config.json").write_text((small.folder / "clip_l" / "config.json").read_text())
    save(
        tmp_path / "clip_l" / "model.fp16.safetensors",
        {k: v for k, v in weights.items() if "layers.2" not in k},
    )
    with pytest.raises(UserError, match=r"16 missing: layers\.2\.attention"):
        clip_encoder(Files("sd3-medium", tmp_path), "l")
