"""Cached streams replay the model they came from: block by block, to its velocity, and from every interruption."""

from dataclasses import replace
from itertools import chain

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import (
    CacheRecipe,
    ImageRecipe,
    cache_blocks,
    cache_quantized,
    collect_images,
    read_block_cache,
    read_images,
    replay,
)
from ditq.calibration.block_cache import array_key
from ditq.calibration.block_caching import batches, cache_meta, sample_bytes
from ditq.calibration.prompt_choice import spread_images
from ditq.core import files
from ditq.core.errors import DitqError, UserError
from ditq.models.mmdit import MMDiT
from ditq.models.state import run_block
from ditq.sampling.generate import settings_for
from tests.models.families import FAMILIES
from tests.sampling.test_generate import Small

PROMPTS = ["one", "two", "three"]
EXACT = CacheRecipe(num_images=3, stride=2, storage_dtype="float32", batch_size=2)


class Dual(Small):
    """With a second attention in its first blocks, and normalised queries and keys."""

    config = FAMILIES["sd3.5-medium"]


def calibrated(folder, model, guidance=7.5):
    settings = settings_for(model, steps=5, guidance=guidance)
    collect_images(model, PROMPTS, ImageRecipe(num_images=4, seed=3), settings, folder)
    return read_images(folder)


@pytest.fixture(scope="module", params=["guided", "plain", "dual"])
def cached(request, tmp_path_factory):
    """Model, calibration pictures, and their cache in float32."""
    model = Dual() if request.param == "dual" else Small()
    folder = tmp_path_factory.mktemp("calibration")
    images = calibrated(folder, model, 1.0 if request.param == "plain" else 7.5)
    cache_blocks(model, images, EXACT, folder / "cache")
    return model, images, read_block_cache(folder / "cache")


def close(got, wanted, tolerance=5e-6):
    """Within some float32 roundings of the greatest value: another batch or another thread adds up in another order."""
    return np.abs(np.array(got) - np.array(wanted)).max() <= tolerance * np.abs(np.array(wanted)).max()


def test_each_block_makes_its_cached_outputs_of_its_cached_inputs(cached):
    model, images, cache = cached
    mmdit = model.network()
    assert cache.rows_per_sample == (2 if images.guided else 1) and len(cache) == 9 * cache.rows_per_sample
    for k, block in enumerate(mmdit.multimodal_transformer_blocks):
        inputs, outputs = cache.state(k), cache.state(k + 1)
        made = run_block(block, {**inputs, **cache.given(mmdit)})
        assert set(outputs) == ({"image", "text"} if k < 2 else {"image"})
        assert all(close(made[name], outputs[name]) for name in outputs)
        assert not close(inputs["image"], outputs["image"], 0.01)


def test_cached_states_lead_to_the_velocity_of_the_model(cached):
    model, images, cache = cached
    mmdit = model.network()
    last, given = cache.state(cache.blocks), cache.given(mmdit)
    for sample, (image, step) in enumerate(cache.samples):
        velocity = replay(mmdit, images, [image], step)
        rows = slice(sample * cache.rows_per_sample, (sample + 1) * cache.rows_per_sample)
        state = {name: array[rows] for name, array in {**last, **given}.items()}
        assert close(mmdit.finish(state, *velocity.shape[1:3]), velocity, 1e-5)


def test_first_boundary_is_what_the_embedders_make(cached):
    model, images, cache = cached
    mmdit = model.network()
    for sample, (image, step) in enumerate(cache.samples):
        first = cache.state(0, slice(sample * cache.rows_per_sample, (sample + 1) * cache.rows_per_sample))
        x = mx.array(images.latents([image], step))
        embedded = mmdit.x_embedder(x) + mmdit.x_pos_embedder(8, 8)
        assert close(first["image"], mx.repeat(embedded, cache.rows_per_sample, axis=0))
        assert close(first["text"], mmdit.context_embedder(images.conditioning([image]).tokens))


def test_what_is_given_row_by_row_is_what_a_run_prepares(cached):
    model, images, cache = cached
    mmdit = model.network()
    step = cache.samples[-1][1]
    inputs = mmdit.prepare(images.conditioning([0]), mx.array([1000 * images.sigmas[step]])).at(0)
    begun = mmdit.begin(mx.zeros((cache.rows_per_sample, 8, 8, 16)), **inputs)
    of_sample = cache.samples.index((0, step)) * cache.rows_per_sample
    given = cache.given(mmdit)
    assert set(begun) == {"image", "text", *given}
    for name, rows in given.items():
        assert close(rows[of_sample : of_sample + cache.rows_per_sample], begun[name])


def test_rows_are_read_in_the_order_asked_for(cached):
    _, _, cache = cached
    whole = np.array(cache.state(1)["image"])
    for rows in ([5, 0, 5, 3], np.array([8, 1]), slice(2, 7, 2)):
        assert np.array_equal(np.array(cache.state(1, rows)["image"]), whole[rows])


def test_run_block_passes_gradients_to_inputs_and_weights(cached):
    model, _, cache = cached
    mmdit = model.network()
    block = mmdit.multimodal_transformer_blocks[0]
    inputs = {**cache.state(0, [0, 1]), "modulation.0": cache.given(mmdit)["modulation.0"][:2]}
    weight = block.image_transformer_block.mlp.fc2.weight

    def loss(w):
        block.image_transformer_block.mlp.fc2.weight = w
        return mx.sum(run_block(block, inputs)["image"] ** 2)

    gradient = mx.grad(loss)(weight)
    direction = mx.random.normal(weight.shape)
    slope = (loss(weight + 1e-3 * direction) - loss(weight - 1e-3 * direction)) / 2e-3
    assert slope.item() == pytest.approx(mx.sum(gradient * direction).item(), rel=2e-2)


def test_a_sample_holds_what_the_documents_name(tmp_path):
    model = Small()
    images = calibrated(tmp_path, model)
    recipe = CacheRecipe(num_images=2, stride=3)
    assert cache_blocks(model, images, recipe, tmp_path / "cache") == 4
    names = sorted(path.name for path in (tmp_path / "cache" / "samples").iterdir())
    assert names == ["0000_000.npz", "0000_003.npz", "0002_000.npz", "0002_003.npz"]
    meta = files.read_json(tmp_path / "cache" / "metadata.json")
    assert meta["samples"] == [[0, 0], [0, 3], [2, 0], [2, 3]] and meta["prompts"] == {
        "0": "one",
        "2": "three",
    }
    with np.load(tmp_path / "cache" / "samples" / "0002_003.npz", allow_pickle=False) as sample:
        streams = {array_key(name, k, 3) for k in range(4) for name in ("image", "text")}
        facts = {"pooled", "timestep", "sigma", "step_index", "image_id"}
        assert set(sample.files) == streams | facts and "mm2__image_out" in streams
        assert sample["mm0__image_in"].shape == (2, 16, 64) and sample["mm2__text_out"].shape == (2, 7, 64)
        assert sample["mm1__text_in"].dtype == np.float16 and sample["pooled"].shape == (2, 48)
        assert sample["sigma"] == np.float32(images.sigmas[3])
        assert sample["timestep"] == np.float32(1000 * images.sigmas[3])
        assert (sample["image_id"], sample["step_index"]) == (2, 3)
        size = sum(sample[key].nbytes for key in streams)
    assert sample_bytes(meta) == size


def test_half_precision_loses_no_more_than_its_last_bit(tmp_path):
    model = Small()
    images = calibrated(tmp_path, model)
    for dtype in ("float16", "float32"):
        cache_blocks(model, images, CacheRecipe(2, 2, dtype), tmp_path / dtype)
    half, whole = (read_block_cache(tmp_path / dtype) for dtype in ("float16", "float32"))
    for k in range(4):
        for name in half.flow.carried(k):
            one, other = (np.array(cache.state(k)[name]) for cache in (half, whole))
            assert np.array_equal(one, other.astype(np.float16).astype(np.float32))
            assert (np.abs(one - other) <= np.abs(other) * 2.0**-11 + 2.0**-25).all()


def test_batches_change_no_more_than_rounding(tmp_path):
    model = Small()
    images = calibrated(tmp_path, model)
    for size in (1, 3):
        cache_blocks(model, images, CacheRecipe(3, 2, "float32", size), tmp_path / str(size))
    alone, together = (read_block_cache(tmp_path / size) for size in ("1", "3"))
    assert alone.samples == together.samples
    for k in range(4):
        assert close(together.state(k)["image"], alone.state(k)["image"], 1e-5)


def test_batches_are_of_one_step_and_hold_every_sample_once(tmp_path):
    images = calibrated(tmp_path, Small())
    meta = cache_meta(Small(), images, CacheRecipe(3, 2, batch_size=2))
    found = batches(meta)
    assert all(len({step for _, step in batch}) == 1 and len(batch) <= 2 for batch in found)
    assert sorted(chain(*found)) == sorted(map(tuple, meta["samples"])) and len(found) == 6


@pytest.mark.parametrize("killed_after", [0, 1, 4])
def test_interrupted_run_resumes_to_identical_files(tmp_path, monkeypatch, killed_after):
    model = Small()
    images = calibrated(tmp_path, model)
    cache_blocks(model, images, EXACT, tmp_path / "whole")
    written, write = [], files.write_npz

    def interrupted(path, arrays):
        if len(written) == killed_after:
            raise KeyboardInterrupt
        written.append(path)
        write(path, arrays)

    folder = tmp_path / "resumed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ditq.calibration.block_caching.write_npz", interrupted)
        cache_blocks(model, images, EXACT, folder)
    with pytest.raises(UserError, match=f"got {killed_after} of 9 samples; .*--resume"):
        read_block_cache(folder)
    with pytest.raises(UserError, match="earlier run; use --resume"):
        cache_blocks(model, images, EXACT, folder)
    with pytest.raises(UserError, match="dtype: got 'float16'; expected 'float32' as in the earlier run"):
        cache_blocks(model, images, CacheRecipe(3, 2, "float16", 2), folder, resume=True)
    litter = folder / "samples" / ".ditq-partial-999999999-0000_000.npz"
    files.write_npz(litter, {})
    counts: list[int] = []
    cache_blocks(model, images, EXACT, folder, resume=True, on_samples=counts.append)
    assert sum(counts) == 9 and counts[0] <= killed_after and not litter.exists()
    same_files(tmp_path / "whole", folder)


def same_files(one, other):
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_pictures_are_spread_and_their_prompts_distinct():
    assert spread_images([str(i) for i in range(50)], 5) == [0, 10, 20, 30, 40]
    twenty = [str(i % 20) for i in range(50)]
    chosen = spread_images(twenty, 5)
    assert len({twenty[i] for i in chosen}) == 5 and chosen == [0, 10, 21, 31, 42]
    assert spread_images(["a", "a", "a"], 3) == [0, 1, 2] and spread_images(["a", "b"], 1) == [0]
    with pytest.raises(UserError, match="--num-images: got 3; expected at most 2"):
        spread_images(["a", "b"], 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_images": 0}, "--num-images: got 0"),
        ({"stride": 0}, "--stride: got 0"),
        ({"batch_size": 0}, "--batch-size: got 0"),
        ({"storage_dtype": "bfloat16"}, "--storage-dtype: got bfloat16; expected float16 or float32"),
    ],
)
def test_impossible_recipes_are_explained(fields, message):
    with pytest.raises(UserError) as caught:
        CacheRecipe(**fields)
    assert message in str(caught.value)


def test_overflow_names_block_stream_and_remedy(tmp_path):
    model = Small()
    calibrated(tmp_path, model)
    (tmp_path / "network.json").unlink()  # the weights change now
    images = read_images(tmp_path)
    mmdit = model.network()
    model.network = lambda: mmdit
    fc2 = mmdit.multimodal_transformer_blocks[1].text_transformer_block.mlp.fc2
    fc2.bias = mx.full(fc2.bias.shape, 1e7)
    with pytest.raises(UserError) as caught:
        cache_blocks(model, images, CacheRecipe(2, 2), tmp_path / "cache")
    assert "output of block 1, text stream, images 0, step 0" in str(caught.value)
    assert "beyond the range of float16; use --storage-dtype float32" in str(caught.value)
    with pytest.raises(UserError, match="got 0 of"):
        read_block_cache(tmp_path / "cache")
    cache_blocks(model, images, CacheRecipe(2, 2, "float32"), tmp_path / "wide")
    fc2.bias = mx.full(fc2.bias.shape, mx.nan)
    with pytest.raises(UserError, match="not finite: the network overflowed.*--dtype"):
        cache_blocks(model, images, CacheRecipe(2, 2, "float32"), tmp_path / "broken")


def test_wrong_folders_models_and_files_are_named(tmp_path):
    model = Small()
    images = calibrated(tmp_path, model)
    folder = tmp_path / "cache"
    cache_blocks(model, images, EXACT, folder)
    cache = read_block_cache(folder)
    with pytest.raises(UserError, match="metadata.json: got no such file"):
        read_block_cache(tmp_path)
    meta = files.read_json(folder / "metadata.json")
    files.write_json(folder / "metadata.json", {**meta, "version": 1})
    with pytest.raises(
        UserError, match="got ditq.block_cache version 1; expected ditq.block_cache version 2"
    ):
        read_block_cache(folder)
    files.write_json(folder / "metadata.json", meta)
    with pytest.raises(DitqError, match="boundary 4 of a model of 3 blocks"):
        cache.state(4)
    other = MMDiT(replace(Small.config, depth_multimodal=4))
    with pytest.raises(UserError, match="a block cache of small: got depth_multimodal 3; expected 4"):
        cache.check_model(other)
    sample = folder / "samples" / "0001_002.npz"
    arrays = files.read_npz(sample)
    for key, value, message in [
        ("mm1__image_in", arrays["mm1__image_in"][:, :5], "mm1__image_in: got float32.2, 5, 64."),
        ("mm1__image_in", arrays["mm1__image_in"].astype(np.float16), "expected float32.2, 16, 64."),
        ("mm1__text_in", None, "mm1__text_in is not a file"),
    ]:
        changed = {name: a for name, a in {**arrays, key: value}.items() if a is not None}
        files.write_npz(sample, changed)
        with pytest.raises(UserError, match=message) as caught:
            cache.state(1)
        assert "0001_002.npz" in str(caught.value)
    files.write_npz(sample, {**arrays, "step_index": np.int32(4)})
    with pytest.raises(UserError, match="step_index: got 4; expected 2 as the file is called"):
        read_block_cache(folder)
    files.write_npz(sample, arrays)
    sample.write_bytes(sample.read_bytes()[:-300])
    with pytest.raises(UserError, match="0001_002.npz: got a file that cannot be read"):
        read_block_cache(folder)


def test_unfinished_calibration_data_is_refused_before_anything_is_loaded(tmp_path):
    images = calibrated(tmp_path, Small())
    (tmp_path / "samples" / "0002_004.npz").unlink()
    model = Small()
    with pytest.raises(UserError, match="no latents of image 2, step 4; finish it"):
        cache_blocks(model, images, EXACT, tmp_path / "cache")
    assert model.loads == [] and not (tmp_path / "cache").exists()
    model.name = "other"
    with pytest.raises(UserError, match="--model other: got calibration data of small"):
        cache_blocks(model, images, EXACT, tmp_path / "cache")


def test_quantized_stream_is_what_the_changed_model_passes_on(tmp_path):
    model = Small()
    images = calibrated(tmp_path, model)
    cache_blocks(model, images, EXACT, tmp_path / "cache")
    cache = read_block_cache(tmp_path / "cache")
    with pytest.raises(UserError, match="no quantized stream.*--stream quantized"):
        cache.state(1, quantized=True)
    mmdit, source = model.network(), {0: "a", 1: "b"}
    fc2 = mmdit.multimodal_transformer_blocks[1].image_transformer_block.mlp.fc2
    fc2.weight = mx.round(fc2.weight * 8) / 8
    assert cache_quantized(mmdit, images, cache, source) == 9
    for k in range(2):
        assert close(cache.state(k, quantized=True)["image"], cache.state(k)["image"])
    quantized = cache.state(2, quantized=True)
    assert not close(quantized["image"], cache.state(2)["image"], 1e-3)
    made = run_block(mmdit.blocks[1], {**cache.state(1), **cache.given(mmdit)})
    assert close(quantized["image"], made["image"])
    assert cache_quantized(mmdit, images, cache, source, resume=True) == 0
    with pytest.raises(UserError, match="got block 2 in float; expected quantized"):
        cache.state(3, quantized=True)
    with pytest.raises(UserError, match=r"source\.1: got"):
        cache_quantized(mmdit, images, cache, {0: "a", 1: "c"}, resume=True)
    other = calibrated(tmp_path / "other", model, 4.0)
    with pytest.raises(UserError, match="other calibration data"):
        cache_quantized(mmdit, other, cache, source, resume=True)
