"""Which files of a folder are read: as publishers, browsers and operating systems leave them there."""

import json
import warnings
from pathlib import Path

import mlx.core as mx
import pytest

from ditq.core.errors import UserError
from ditq.models.folders import SeveralVariants
from ditq.models.loading import read_weights


def put(folder: Path, *names: str) -> None:
    """Files that each hold the number of their place in `names`, under the key "w"."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        mx.save_safetensors(str(folder / "x.safetensors"), {"w": mx.array([float(i)])})
        (folder / "x.safetensors").rename(folder / name)


def put_shards(folder: Path, index: str, *shards: str) -> None:
    for i, name in enumerate(shards):
        mx.save_safetensors(str(folder / "x.safetensors"), {f"w{i}": mx.array([float(i)])})
        (folder / "x.safetensors").rename(folder / name)
    map_ = {f"w{i}": name for i, name in enumerate(shards)}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": map_}))


def silently(folder: Path) -> dict[str, mx.array]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_weights(folder)


def test_shards_of_a_variant_are_read_by_their_index(tmp_path):
    index = "model.safetensors.index.fp16.json"
    put_shards(
        tmp_path, index, "model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"
    )
    assert silently(tmp_path).keys() == {"w0", "w1"}
    assert read_weights(tmp_path / index).keys() == {"w0", "w1"}


@pytest.mark.parametrize(
    "names",
    [
        ("model.fp16.safetensors", "model.safetensors"),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp32.safetensors"),
        ("model.bf16.safetensors", "model.safetensors", "model.fp8.safetensors", "model.non_ema.safetensors"),
        ("t5xxl_fp16.safetensors", "t5xxl.safetensors"),
    ],
)
def test_of_several_variants_that_in_16_bit_is_read_and_a_line_says_so(tmp_path, names):
    put(tmp_path, *names)
    with pytest.warns(SeveralVariants) as caught:
        assert read_weights(tmp_path)["w"].item() == 0
    assert len(caught) == 1
    message = str(caught[0].message)
    assert f"reads {names[0]}, not" in message and names[1] in message and "\n" not in message


def test_shards_of_another_variant_are_no_ambiguity(tmp_path):
    put(tmp_path, "model.safetensors")
    put_shards(tmp_path, "model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors")
    with pytest.warns(
        SeveralVariants, match="reads model.safetensors.index.fp16.json, not model.safetensors"
    ):
        assert read_weights(tmp_path).keys() == {"w0"}


def test_an_index_whose_shards_were_never_downloaded_is_not_preferred(tmp_path):
    put(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors.index.fp16.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert silently(tmp_path).keys() == {"w"}


@pytest.mark.parametrize(
    "beside",
    [
        "._model.safetensors",
        ".model.safetensors.a1b2c3",
        ".hidden.safetensors",
        ".ditq-partial-12-model-.safetensors",
        ".DS_Store",
        "model (1).safetensors",
        "model(2).safetensors",
        "model copy.safetensors",
        "model - Copy.safetensors",
        "other.safetensors.part",
        "other.safetensors.crdownload",
        "other.safetensors.incomplete",
        "._model.safetensors.index.json",
        "Thumbs.db",
    ],
)
def test_what_systems_and_browsers_leave_is_skipped(tmp_path, beside):
    put(tmp_path, "model.safetensors")
    (tmp_path / beside).write_bytes(b"\x00\x05\x16\x07")
    assert silently(tmp_path)["w"].item() == 0


def test_a_second_download_alone_is_a_checkpoint(tmp_path):
    put(tmp_path, "model (1).safetensors")
    assert silently(tmp_path)["w"].item() == 0


def test_shards_without_an_index_are_joined_if_all_are_there(tmp_path):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    put_shards(tmp_path, "model.safetensors.index.json", *names)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert silently(tmp_path).keys() == {"w0", "w1"}
    (tmp_path / names[0]).unlink()
    with pytest.raises(UserError, match="got 1 of 2 shards of model; number 1 is missing; copy or download"):
        read_weights(tmp_path)


def test_a_partial_download_is_told_of(tmp_path):
    (tmp_path / "model.safetensors.part").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"no safetensors file, but a partial download \(model.safetensors.part\)"
    ):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors.part").rename(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="no safetensors file among model.ckpt; expected a checkpoint"):
        read_weights(tmp_path)


def test_several_models_are_not_guessed_among(tmp_path):
    put(tmp_path, "clip.safetensors", "t5.safetensors")
    with pytest.raises(
        UserError, match=r"several checkpoints \(clip.safetensors, t5.safetensors\).*move the others"
    ):
        read_weights(tmp_path)
    (tmp_path / "aside").mkdir()
    (tmp_path / "t5.safetensors").rename(tmp_path / "aside" / "t5.safetensors")
    assert silently(tmp_path)["w"].item() == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("null", "an index without 'weight_map'"),
        ("[]", "an index without 'weight_map'"),
        ("{}", "an index without 'weight_map'"),
        ('{"weight_map": null}', "weight_map: got null; expected an object"),
        ('{"weight_map": ["a"]}', "weight_map: got list; expected an object"),
        ('{"weight_map": {}}', "weight_map: got nothing in it"),
        ('{"weight_map": {"a": null}}', "weight_map: a: got"),
        (f'{{"weight_map": {{"a": "{"x" * 300}"}}}}', "weight_map: a: got a name of 300 bytes"),
        ('{"weight_map": {"a": "b\\u0000"}}', "characters that no name should"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "weight_map: a: got"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "weight_map: a: got"),
        (
            '{"weight_map": {"a": "gone.safetensors"}}',
            "gone.safetensors: got no such file; expected a shard that",
        ),
        ("{", "model.safetensors.index.json: got"),
    ],
)
def test_an_index_that_is_none_is_told(tmp_path, text, told):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with pytest.raises(UserError) as caught:
            read_weights(path)
        assert str(caught.value).startswith(str(tmp_path)) and told in str(caught.value)


def test_a_key_in_two_shards_is_told(tmp_path):
    put(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match="00002-of-00002.safetensors: got w again"):
        read_weights(tmp_path)
