"""What the layers receive, against NumPy on the raw inputs; merging, resuming, and files that do not belong."""

import json
import shutil
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import ImageRecipe, collect_images, read_images, replay
from ditq.capture import layers, traced
from ditq.core.errors import DitqError, UserError
from ditq.diagnostics import (
    InputRecipe,
    collect_inputs,
    merge_inputs,
    moving_shift,
    read_layer_statistics,
)
from ditq.diagnostics import collect as collecting_module
from ditq.diagnostics.histogram import bits_histogram, histograms, slot_counts, upper_halves, wide_edges
from ditq.diagnostics.layer_files import FOLDER, MADE_BY, MANIFEST, step_file
from ditq.diagnostics.layer_inputs import magnitude
from ditq.diagnostics.reservoir import Reservoir
from ditq.sampling.generate import settings_for
from tests.sampling.test_generate import Small

RECIPE = InputRecipe(num_images=4, stride=2, batch_size=2, sample_values=800)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures of the small model over five steps."""
    folder = tmp_path_factory.mktemp("pictures")
    model = Small()
    settings = settings_for(model, steps=5)
    collect_images(model, ["one", "two", "three"], ImageRecipe(4, seed=3, batch_size=2), settings, folder)
    return read_images(folder)


@pytest.fixture(scope="module")
def collected(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    collect_inputs(Small(), pictures, RECIPE, folder)
    return read_layer_statistics(folder / MANIFEST)


def raw(pictures, images, step) -> dict[str, list[np.ndarray]]:
    """Per layer, one array (guidance * tokens, channels) for each picture, run one by one."""
    network, kept = Small().network(), {}

    def keep(path, x):
        kept.setdefault(path, []).append(np.array(x).reshape(-1, x.shape[-1]))

    for image in images:
        with traced(network, network.anatomy.paths("block"), keep):
            mx.eval(replay(network, pictures, [image], step))
    return kept


def test_statistics_equal_numpys_on_the_raw_inputs(pictures, collected):
    assert collected.steps == [0, 2, 4] and len(collected.layers) == len(
        Small().network().anatomy.paths("block")
    )
    found, kept = collected.at(2), raw(pictures, range(4), 2)
    for path, source in collected.layers.items():
        part, arrays = found[source], kept[path]
        close: dict[str, Any] = dict(rtol=1e-4, atol=1e-4 * float(np.abs(np.concatenate(arrays)).max()))
        lows, highs = (np.stack([f(x, axis=0) for x in arrays]) for f in (np.min, np.max))
        assert part.images == 4 and part.count == sum(map(len, arrays))
        np.testing.assert_allclose(part.avg_min, lows.mean(axis=0), **close)
        np.testing.assert_allclose(part.avg_max, highs.mean(axis=0), **close)
        np.testing.assert_allclose(part.abs_min, lows.min(axis=0), **close)
        np.testing.assert_allclose(part.abs_max, highs.max(axis=0), **close)
        assert part.counts.sum() == np.concatenate(arrays).size
        if path.endswith("fc2"):
            shift = None
            for low, high in zip(lows.astype(np.float64), highs.astype(np.float64), strict=True):
                shift = moving_shift(shift, low, high)
            np.testing.assert_allclose(cast(np.ndarray, part.shift), cast(np.ndarray, shift), **close)
        else:
            assert part.shift is None
        rows = np.concatenate(arrays)
        for row in part.sample.rows[:5].astype(np.float32):  # each is one of the raw rows
            assert np.abs(rows - row).max(axis=1).min() < 2e-3 * max(1, np.abs(row).max())


def test_column_norms_add_up_over_the_layers_that_share_an_input(collected):
    network, found = Small().network(), collected.at(0)
    assert any(len(paths) == 3 for paths in collected.groups.values())
    for source, paths in collected.groups.items():
        weights = np.concatenate([np.array(layers(network)[path].weight) for path in paths])
        np.testing.assert_allclose(found[source].column_norms, np.square(weights).sum(axis=0), rtol=1e-5)


def test_batch_size_changes_nothing_but_rounding(pictures, collected, tmp_path):
    collect_inputs(Small(), pictures, InputRecipe(**{**vars(RECIPE), "batch_size": 3}), tmp_path)
    other = read_layer_statistics(tmp_path / MANIFEST)
    for source, part in collected.at(4).items():
        theirs = other.at(4)[source]
        np.testing.assert_array_equal(part.sample.priorities, theirs.sample.priorities)
        for name in ("avg_min", "abs_max"):
            np.testing.assert_allclose(getattr(part, name), getattr(theirs, name), rtol=1e-3, atol=1e-3)


def test_merged_shards_equal_one_run(pictures, tmp_path):
    whole = InputRecipe(**{**vars(RECIPE), "batch_size": 1})
    collect_inputs(Small(), pictures, whole, tmp_path / "whole")
    for k in (0, 1):
        collect_inputs(Small(), pictures, InputRecipe(**{**vars(whole), "shard": (k, 2)}), tmp_path / str(k))
    merge_inputs([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    merged, one = (read_layer_statistics(tmp_path / name / MANIFEST) for name in ("merged", "whole"))
    assert sorted(merged.manifest["images"]) == sorted(one.manifest["images"])
    for step in one.steps:
        parts = merged.at(step)
        for source, part in one.at(step).items():
            theirs = parts[source]
            assert (part.images, part.count) == (theirs.images, theirs.count)
            for name in ("abs_min", "abs_max", "counts"):
                np.testing.assert_array_equal(getattr(part, name), getattr(theirs, name))
            np.testing.assert_array_equal(part.sample.rows, theirs.sample.rows)
            np.testing.assert_array_equal(part.sample.priorities, theirs.sample.priorities)
            for name in ("avg_min", "avg_max"):
                np.testing.assert_allclose(getattr(part, name), getattr(theirs, name), rtol=1e-14)
            if part.shift is not None:  # of another order: near, and not the same
                np.testing.assert_allclose(
                    part.shift, cast(np.ndarray, theirs.shift), atol=0.3 * np.abs(part.shift).max()
                )
    with pytest.raises(UserError, match="cannot merge .*: got 2 pictures that others have; merge the shards"):
        merge_inputs([tmp_path / "0", tmp_path / "0"], tmp_path / "twice")
    manifest = json.loads((tmp_path / "1" / MANIFEST).read_text())
    (tmp_path / "1" / MANIFEST).write_text(json.dumps({**manifest, "dtype": "other"}))
    with pytest.raises(UserError, match="cannot merge .*: dtype"):
        merge_inputs([tmp_path / "0", tmp_path / "1"], tmp_path / "mixed")


def test_reservoir_is_the_rows_of_least_priority_however_they_come():
    rng = np.random.default_rng(0)
    rows, priority = rng.standard_normal((500, 3)).astype(np.float32), rng.random(500)
    expected = rows[np.argsort(priority)[:20]].astype(np.float16)
    for pieces in ([500], [7] * 71 + [3], [1] * 500):
        kept, start = Reservoir.empty(20, 3), 0
        for length in pieces:
            kept.offer(priority[start : start + length], rows[start : start + length])
            start += length
        kept.pack()
        np.testing.assert_array_equal(kept.rows, expected)
    halves = [Reservoir.empty(20, 3) for _ in range(2)]
    for half, part in zip(halves, (slice(0, 200), slice(200, 500)), strict=True):
        half.offer(priority[part], rows[part])
    halves[1].add(halves[0])
    halves[1].pack()
    np.testing.assert_array_equal(halves[1].rows, expected)
    loud = Reservoir.empty(2, 3)
    loud.offer(priority[:3], rows[:3] * 1e6)
    loud.pack()
    assert loud.rows.dtype == np.float32 and np.isfinite(loud.rows).all()


def test_counts_of_upper_halves_make_the_wide_histogram():
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(100_000) * np.exp(rng.standard_normal(100_000) * 2)).astype(np.float32)
    x = (x.view(np.uint32) | 1).view(np.float32)  # no value is exactly an edge
    found = bits_histogram(upper_halves(x))
    np.testing.assert_array_equal(found, histograms(slot_counts(x)).wide)
    np.testing.assert_array_equal(
        found, np.histogram(x, np.concatenate([[-np.inf], wide_edges()[1:-1], [np.inf]]))[0]
    )
    for fraction in (0.5, 0.99, 0.999):
        exact = np.quantile(np.abs(x), fraction)
        assert abs(magnitude(found, fraction, float(np.abs(x).max())) / exact - 1) < 0.07


def test_interrupted_run_resumes_to_identical_files(pictures, collected, tmp_path, monkeypatch):
    steps = []

    def interrupted(*args):
        if len(steps) == 1:
            raise KeyboardInterrupt
        steps.append(1)
        return observe(*args)

    observe = collecting_module.observe_step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collecting_module, "observe_step", interrupted)
        collect_inputs(Small(), pictures, RECIPE, tmp_path)
    with pytest.raises(UserError, match="2 of 3 steps missing, the first: 2; finish it"):
        read_layer_statistics(tmp_path / MANIFEST)
    with pytest.raises(UserError, match="earlier run; use --resume"):
        collect_inputs(Small(), pictures, RECIPE, tmp_path)
    with pytest.raises(UserError, match="sample_values: got 900; expected 800"):
        other = InputRecipe(**{**vars(RECIPE), "sample_values": 900})
        collect_inputs(Small(), pictures, other, tmp_path, resume=True)
    collect_inputs(Small(), pictures, RECIPE, tmp_path, resume=True)
    for path in collected.folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(collected.folder)).read_bytes()


def test_activations_that_are_not_finite_name_their_layer_and_step(pictures, tmp_path):
    model = Small()
    network = model.network()
    fc1 = network.multimodal_transformer_blocks[1].image_transformer_block.mlp.fc1
    fc1.bias = mx.where(mx.arange(fc1.bias.size) == 7, mx.array(float("nan")), fc1.bias)
    model.network = lambda: network  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(
        DitqError, match=r"blocks\.1\.image.*mlp\.fc2 at step 0: .* are not finite; .*overflowed"
    ):
        collect_inputs(model, replace(pictures, drawn_by=None), RECIPE, tmp_path)
    with pytest.raises(
        UserError, match=r"network.json: made with another model's weights: got weights [0-9a-f]{16}"
    ):
        collect_inputs(model, pictures, RECIPE, tmp_path / "other")


@pytest.mark.parametrize("lost", ["step_2.npz", "step_0.npz", "step_2_index.json"])
@pytest.mark.parametrize("cut", [False, True])
def test_what_is_lost_or_cut_off_is_made_again_equal_to_the_bit(collected, pictures, tmp_path, lost, cut):
    folder = tmp_path / "copy"
    shutil.copytree(collected.folder, folder)
    path = folder / FOLDER / lost
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2]) if cut else path.unlink()
    if lost.endswith("npz"):
        with pytest.raises(UserError, match=f"{MADE_BY} --resume"):
            read_layer_statistics(folder / MANIFEST).at(int(lost[5]))
    collect_inputs(Small(), pictures, RECIPE, folder, resume=True)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_images": 0}, "--num-images: got 0"),
        ({"stride": 0}, "--stride: got 0"),
        ({"inputs": "some"}, "--inputs: got some; expected postgelu or all"),
        ({"shard": (2, 2)}, "--shard: got 2/2"),
    ],
)
def test_impossible_recipes_are_explained(fields, message):
    with pytest.raises(UserError) as caught:
        InputRecipe(**fields)
    assert message in str(caught.value)


def test_damaged_files_are_named(collected, tmp_path):
    shutil.copytree(collected.folder, tmp_path / "copy")
    statistics = read_layer_statistics(tmp_path / "copy" / MANIFEST)
    path = step_file(statistics.folder, 2)
    with np.load(path) as file:
        arrays = dict(file)
    key = next(name for name in arrays if name.endswith("::abs_max"))
    np.savez(path, **{name: a for name, a in arrays.items() if name != key})
    with pytest.raises(UserError, match=r"step_2\.npz: got no abs_max of .*k_proj"):
        statistics.at(2)
    np.savez(path, **{**arrays, key: arrays[key] * np.nan})
    with pytest.raises(UserError, match="not finite"):
        statistics.at(2)
    np.savez(path, **{**arrays, key: arrays[key][:3]})
    with pytest.raises(UserError, match=r"abs_max: got float32\(3,\); expected float32\(64,\)"):
        statistics.at(2)
    (tmp_path / "other.json").write_text('{"kind": "cake"}')
    with pytest.raises(UserError, match=r"cake version None; expected ditq\.layer_statistics version 1"):
        read_layer_statistics(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_keys": []}, r"step_keys: got \[\]; expected a list of steps"),
        ({"step_keys": ["x/../../ESC"]}, r"step_keys: got 'x/../../ESC'; expected whole numbers"),
        ({"step_keys": [True]}, r"step_keys: got true; expected whole numbers"),
        ({"step_keys": [1, 1]}, r"step_keys: got 1; expected whole numbers, each once"),
        ({"sigma_map": {"0": 1.0}}, "sigma_map: 2: expected a number"),
        ({"layers": {}}, "layers: got {}; expected an entry for each layer"),
        ({"layers": {"a": {"channels": 3}}}, "a: got {'channels': 3}; expected input and channels"),
        (
            {"layers": {"a": {"channels": 3, "input": "a", "label": 7, "stream": None}}},
            "wrong label and stream of a",
        ),
        ({"noise": "pink"}, "noise: got pink; expected one of rectified-flow, ddpm-linear"),
    ],
)
def test_damaged_manifests_are_named(collected, tmp_path, change, message):
    (tmp_path / MANIFEST).write_text(json.dumps({**collected.manifest, **change}))
    with pytest.raises(UserError, match=message):
        read_layer_statistics(tmp_path / MANIFEST)


def test_folders_of_older_releases_are_read(collected, tmp_path):
    layers = {
        path: {name: entry[name] for name in ("input", "channels")}
        for path, entry in collected.manifest["layers"].items()
    }
    shutil.copytree(collected.folder, tmp_path / "old")
    (tmp_path / "old" / MANIFEST).write_text(json.dumps({**collected.manifest, "layers": layers}))
    old, source = read_layer_statistics(tmp_path / "old" / MANIFEST), next(iter(collected.groups))
    assert old.layers == collected.layers and old.names[source] == (source, None) and old.role(source) is None
    np.testing.assert_array_equal(old.at(2)[source].sample.rows, collected.at(2)[source].sample.rows)
    assert collected.foldable(source) and collected.names[source] == ("mm_00_img.attn.q_proj", "image")
    with pytest.raises(
        UserError, match="k_proj: got no entry 'foldable': an older version .* collect the statistics again"
    ):
        old.foldable(source)
