"""A block cache is held against its metadata and its network, and `--resume` makes again what is lost."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import CacheRecipe, cache_blocks, cache_quantized, read_block_cache, read_images
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, write_json, write_npz
from tests.calibration.test_block_cache import calibrated, same_files
from tests.sampling.test_generate import Small

RECIPE = CacheRecipe(num_images=2, stride=2, storage_dtype="float32", batch_size=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("calibration"), Small())


@pytest.fixture
def folder(images, tmp_path):
    cache_blocks(Small(), images, RECIPE, tmp_path / "cache")
    return tmp_path / "cache"


def other_network():
    """A model whose network has other weights."""
    model = Small()
    network = model.network()
    model.network = lambda: network
    network.x_embedder.proj.weight = network.x_embedder.proj.weight * 1.01
    mx.eval(network.parameters())
    return model


@pytest.mark.parametrize("stream", ["samples", "samples_quantized"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_lost_or_cut_sample_is_made_again_equal_to_the_bit(images, folder, tmp_path, stream, cut):
    cache_blocks(Small(), images, RECIPE, tmp_path / "whole")
    for one in (folder, tmp_path / "whole"):
        cache_quantized(Small().network(), images, read_block_cache(one), {0: "digest"})
    path = folder / stream / "0002_002.npz"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2]) if cut else path.unlink()
    if stream == "samples":
        with pytest.raises(UserError, match="cache_adaround_data --resume"):
            read_block_cache(folder)
        assert cache_blocks(Small(), images, RECIPE, folder, resume=True) == 2
        assert cache_blocks(Small(), images, RECIPE, folder, resume=True) == 0
    else:
        cache = read_block_cache(folder)
        assert cache_quantized(Small().network(), images, cache, {0: "digest"}, resume=True) == 2
    assert path.read_bytes() == data
    same_files(folder, tmp_path / "whole")


def test_values_that_are_not_finite_are_told_and_made_again(images, folder):
    path = folder / "samples" / "0000_004.npz"
    arrays = read_npz(path)
    for name, message in (
        ("mm2__image_in", r"0000_004.npz: mm2__image_in: got 1 of 2,048 values that are not finite"),
        ("pooled", r"0000_004.npz: pooled: got 1 of 96 values that are not finite"),
    ):
        spoiled = arrays[name].copy()
        spoiled[0].reshape(-1)[7] = np.inf
        write_npz(path, {**arrays, name: spoiled})
        with pytest.raises(UserError, match=f"{message}.*remove the file .*cache_adaround_data --resume"):
            read_block_cache(folder).state(2)
        path.unlink()
        cache_blocks(Small(), images, RECIPE, folder, resume=True)
        read_block_cache(folder).state(2)


def test_another_network_is_told_with_both_digests(images, folder):
    model = other_network()
    weights = read_json(folder / "metadata.json")["weights"]
    cache = read_block_cache(folder)
    with pytest.raises(
        UserError, match=f"metadata.json: made with another.*got weights {weights}; expected [0-9a-f]"
    ):
        cache.check_model(model.network())
    with pytest.raises(UserError, match="network.json: made with another model's weights"):
        cache_blocks(model, images, RECIPE, folder, resume=True)
    (images.folder / "network.json").rename(images.folder / "away")
    try:
        with pytest.raises(
            UserError, match=f"weights: got '[0-9a-f]+'; expected '{weights}' as in the earlier run"
        ):
            cache_blocks(model, read_images(images.folder), RECIPE, folder, resume=True)
    finally:
        (images.folder / "away").rename(images.folder / "network.json")
    cache.check_model(Small().network())
    cache.given(model.network())  # some of its layers may be quantized


def test_an_older_cache_without_the_digest_goes_on(images, folder):
    path = folder / "metadata.json"
    meta = {**read_json(path), "producer": "ditq 0.0.1"}
    del meta["weights"]
    write_json(path, meta)
    (folder / "samples" / "0000_000.npz").unlink()
    assert cache_blocks(Small(), images, RECIPE, folder, resume=True) == 2
    cache = read_block_cache(folder)
    cache.check_model(other_network().network())
    assert cache_quantized(Small().network(), images, cache, {0: "digest"}) == 6
    assert cache.state(1, quantized=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("storage_dtype", "bfloat16", "metadata.json: storage_dtype: got 'bfloat16'"),
        ("rows_per_sample", 3, "metadata.json: rows_per_sample: got 3"),
        ("samples", [[0]], r"metadata.json: samples\[0\]: got 1 entries; expected 2"),
        ("samples", [[0, -1]], r"samples\[0\]\[1\]: got -1"),
        ("samples", [], "metadata.json: samples: got"),
        ("states", [{}], "metadata.json: states: got 1 entries; expected 4, one for each boundary"),
        ("states", None, "metadata.json: states: got null"),
        ("flow", {"reads": []}, "metadata.json: flow: writes: got nothing"),
        ("latents", [8], "metadata.json: latents: got 1 entries"),
    ],
)
def test_metadata_is_held_against_its_shape(folder, field, value, message):
    path = folder / "metadata.json"
    write_json(path, {**read_json(path), field: value})
    with pytest.raises(UserError, match=message):
        read_block_cache(folder)
