"""The embedded model: its file, its interface, its errors."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.core.files import read_safetensors, write_safetensors
from ditq.models import MODELS, TextToImage, load
from ditq.models.mini.model import WEIGHTS
from ditq.sampling.generate import generate, settings_for


def test_weights_fit_the_package():
    assert WEIGHTS.stat().st_size <= 16e6
    weights, metadata = read_safetensors(WEIGHTS)
    assert {array.dtype for array in weights.values()} == {mx.float16}
    assert {key.split(".")[0] for key in weights} == {"transformer", "text_encoder", "decoder", "classifier"}
    words = json.loads(metadata["words"])
    targets = {word for alias in words["aliases"].values() for word in alias.split()}
    assert targets <= set(words["known"])


def test_parts_are_loaded_when_first_used_and_kept():
    model = load("mini")
    assert model.network() is model.network()
    dtypes = {array.dtype for _, array in tree_flatten(model.network().parameters())}
    assert dtypes == {mx.float32}
    assert load("mini", dtype=mx.float16).network().context_embedder.weight.dtype == mx.float16


def test_conditioning_is_one_row_per_prompt():
    conditioning = load("mini").encode(["a fox in the snow", "a car", ""])
    assert conditioning.tokens.shape == (3, 12, 128) and conditioning.pooled.shape == (3, 128)
    assert mx.abs(conditioning.pooled[2]).max().item() == 0
    assert len(conditioning[:2]) == 2


def test_a_prompt_decides_the_picture():
    model = load("mini")
    settings = settings_for(model, steps=12)
    prompts = ["a fox in the snow", "a frog on a black background"]
    snow, black = generate(model, prompts, [0, 0], settings, batch_size=2)
    assert snow.shape == (128, 128, 3) and snow.dtype == np.uint8
    assert snow[:8].mean() > 120 and black[:8].mean() < 60
    orange = (snow[..., 0].astype(int) - snow[..., 2]) > 80
    green = (black[..., 1].astype(int) - black[..., 0]) > 80
    assert orange.sum() > 300 and green.sum() > 300


def test_fp16_transformer_draws_the_same_picture():
    prompts, seeds = ["a fox in the snow"], [0]
    pictures = [
        next(generate(model, prompts, seeds, settings_for(model, steps=4)))
        for model in (load("mini"), load("mini", dtype=mx.float16))
    ]
    error = np.mean((pictures[0].astype(float) - pictures[1]) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 30


def test_a_foreign_or_truncated_file_is_refused(tmp_path):
    write_safetensors(tmp_path / "other.safetensors", {"transformer.context_embedder.bias": mx.zeros(192)})
    with pytest.raises(UserError, match="no vocabulary"):
        load("mini", tmp_path / "other.safetensors").encode(["a fox"])
    with pytest.raises(UserError, match=r"other.safetensors \(transformer\): got \d+ missing"):
        load("mini", tmp_path / "other.safetensors").network()
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:100_000])
    with pytest.raises(UserError, match="cut.safetensors: got a file that cannot be read"):
        load("mini", tmp_path / "cut.safetensors").encode(["a fox"])
    with pytest.raises(UserError, match="no such file"):
        load("mini", tmp_path / "none.safetensors").network()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("[", "no vocabulary"),
        ("null", "words: got null; expected an object"),
        ('{"known": "abc", "aliases": {}, "length": 8}', "words: known: got 'abc'; expected a list of texts"),
        ('{"known": ["a"], "aliases": {"b": 3}, "length": 8}', "words: aliases: b: got 3; expected a text"),
        ('{"known": ["a"], "aliases": {}, "length": 1000000000000}', "words: length: got 1000000000000"),
        ('{"known": ["a"], "aliases": {}}', "words: length: got nothing"),
    ],
)
def test_a_vocabulary_that_is_none_is_told(tmp_path, words, told):
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, {"transformer.context_embedder.bias": mx.zeros(192)}, {"words": words})
    with pytest.raises(UserError) as caught:
        load("mini", path).encode(["a fox"])
    assert str(caught.value).startswith(str(path)) and told in str(caught.value)


def test_minis_folder_may_be_given(tmp_path):
    (tmp_path / "mini.safetensors").write_bytes(WEIGHTS.read_bytes())
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert load("mini", tmp_path).encode(["a fox"]).tokens.shape == (1, 12, 128)
    with pytest.raises(UserError, match="nowhere: got no such file"):
        load("mini", tmp_path / "nowhere").network()


def test_every_model_has_the_interface():
    assert isinstance(load("mini"), TextToImage)
    assert all(isinstance(load(name), TextToImage) for name in MODELS if name != "mini")
