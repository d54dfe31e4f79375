"""The profile against NumPy on stored activations; merging, resuming, and outputs that tracing does not change."""

import json

import mlx.core as mx
import numpy as np
import pytest

from ditq.capture import layers, traced
from ditq.core.errors import DitqError, UserError
from ditq.diagnostics import (
    ProfileRecipe,
    merge,
    observed_paths,
    parts_of,
    profile,
    read_statistics,
    write_statistics,
)
from ditq.diagnostics.profiling import observe_batch
from ditq.diagnostics.statistics import ActivationStatistics
from ditq.sampling.guidance import Denoiser
from tests.diagnostics.runs import path_of, points_of
from tests.sampling.test_generate import Small

RECIPE = ProfileRecipe(num_samples=10, seed=3, batch_size=2)


def stored(points, rows, inputs="postgelu") -> dict[tuple[str, float], list[np.ndarray]]:
    """Every input of every observed layer, one point and one guidance row at a time."""
    network, kept = Small().network(), {}
    for row in rows:
        t, conditioning = points.ts[row], points.conditioning(int(points.prompt_indices[row]))
        for i in range(2 if points.cfg_scale > 1 else 1):

            def keep(path, x, t=float(t)):
                kept.setdefault((path, t), []).append(np.array(x).reshape(-1, x.shape[-1]))

            with traced(network, observed_paths(network, inputs), keep):
                given = network.prepare(conditioning[i : i + 1], mx.array([float(t)])).at(0)
                x = mx.array(points.xs[row : row + 1]).astype(mx.float32)
                mx.eval(network(x, **given))
    return kept


@pytest.mark.parametrize(("inputs", "cfg_scale"), [("postgelu", 1.5), ("postgelu", 1.0), ("all", 1.5)])
def test_statistics_equal_numpys_on_stored_activations(tmp_path, inputs, cfg_scale):
    points = points_of(tmp_path, cfg_scale)
    recipe = ProfileRecipe(**{**vars(RECIPE), "inputs": inputs})
    found = profile(Small(), points, recipe, tmp_path / "stats.npz")
    rows = np.concatenate(recipe.batches(points))
    assert len(set(rows.tolist())) == 10 and np.array_equal(found.points, rows)
    kept = stored(points, rows, inputs)
    assert len(found.layers) == (5 if inputs == "postgelu" else len(Small().network().anatomy.paths()))
    for (path, t), arrays in kept.items():
        x = np.concatenate(arrays)
        if path.startswith("t_embedder"):  # the guidance rows share the timestep's embedding: it runs once
            x = np.concatenate(arrays[::2])
        part = found.layers[path][t]
        assert part.count == len(x), path
        # a batch of points differs from one alone by the rounding of its matrix products
        close = dict(rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(x).max())))
        np.testing.assert_allclose(part.mean, x.mean(axis=0, dtype=np.float64), **close)
        np.testing.assert_allclose(part.std, x.std(axis=0, dtype=np.float64), **close)
        np.testing.assert_allclose(part.minimum, x.min(axis=0), **close)
        np.testing.assert_allclose(part.maximum, x.max(axis=0), **close)
        assert part.histograms.even.sum() == x.size
        weight = np.array(layers(Small().network())[path].weight)
        assert np.array_equal(found.weights[path][0], weight.min(axis=0))
        assert np.array_equal(found.weights[path][1], weight.max(axis=0))


def test_tracing_changes_no_bit_of_the_output(tmp_path):
    points = points_of(tmp_path)
    network, sizes = Small().network(), []
    conditioning = points.conditioning(0)
    denoise = Denoiser(network, compiled=False).run(
        conditioning[:1], conditioning[1:], np.array([1.0, 0.5, 0.0]), 4.0
    )
    x = mx.array(points.xs[:1]).astype(mx.float32)
    plain = denoise(x, 1)
    with traced(
        network, observed_paths(network, "all"), lambda path, value: sizes.append(np.array(value).size)
    ):
        assert mx.array_equal(denoise(x, 1), plain)
    assert sizes
    count = len(sizes)
    assert mx.array_equal(denoise(x, 1), plain) and len(sizes) == count


def same(one: ActivationStatistics, other: ActivationStatistics, exact: bool = True) -> None:
    assert list(one.layers) == list(other.layers) and one.timesteps == other.timesteps
    for layer, steps in one.layers.items():
        for t, part in steps.items():
            theirs = other.layers[layer][t]
            for name in ("count", "minimum", "maximum"):
                assert np.array_equal(getattr(part, name), getattr(theirs, name))
            assert np.array_equal(part.histograms.even, theirs.histograms.even)
            assert np.array_equal(part.histograms.wide, theirs.histograms.wide)
            for name in ("total", "squares", "mean", "std"):
                np.testing.assert_allclose(
                    getattr(part, name),
                    getattr(theirs, name),
                    rtol=0 if exact else 1e-11,
                    atol=0 if exact else 1e-12,
                )


def test_merged_shards_equal_one_run(tmp_path):
    points = points_of(tmp_path)
    whole = profile(Small(), points, RECIPE, tmp_path / "whole.npz")
    shards = [
        profile(Small(), points, ProfileRecipe(**{**vars(RECIPE), "shard": (k, 2)}), tmp_path / f"{k}.npz")
        for k in (0, 1)
    ]
    together = merge([read_statistics(tmp_path / f"{k}.npz") for k in (0, 1)])
    same(together, whole, exact=False)
    assert sorted(together.points) == sorted(whole.points)
    with pytest.raises(UserError, match="points that are in both files"):
        merge([shards[0], shards[0]])
    other = ActivationStatistics(
        shards[1].layers, shards[1].weights, shards[1].points, {**shards[1].meta, "model": "x"}
    )
    with pytest.raises(UserError, match="cannot merge: model: got x; expected small"):
        merge([shards[0], other])


def test_file_gives_back_what_was_written(tmp_path):
    found = profile(Small(), points_of(tmp_path), RECIPE, tmp_path / "stats.npz")
    same(read_statistics(tmp_path / "stats.npz"), found)
    with np.load(tmp_path / "stats.npz", allow_pickle=False) as file:
        assert file["timesteps_unique"].dtype == np.float32 and len(file["histogram_bin_edges"]) == 513
        key = f"{path_of(0)}::t={file['timesteps_unique'][-1]}::"
        assert key == f"{path_of(0)}::t=1000.0::"
        assert file[key + "mean"].shape == (256,) and file[key + "mean"].dtype == np.float64
        values = file[key + "histogram"].sum() + file[key + "underflow"] + file[key + "overflow"]
        assert values == file[key + "count"] * 256
    assert not parts_of(tmp_path / "stats.npz").exists()


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_interrupted_run_resumes_to_the_identical_file(tmp_path, monkeypatch, killed_after):
    points = points_of(tmp_path)
    profile(Small(), points, RECIPE, tmp_path / "whole.npz", checkpoint_seconds=0)
    runs = []

    def interrupted(*args):
        if len(runs) == killed_after:
            raise KeyboardInterrupt
        runs.append(1)
        observe_batch(*args)

    path = tmp_path / "resumed.npz"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ditq.diagnostics.profiling.observe_batch", interrupted)
        profile(Small(), points, RECIPE, path, checkpoint_seconds=0)
    assert not path.exists()
    with pytest.raises(UserError, match="earlier run; use --resume"):
        profile(Small(), points, RECIPE, path)
    with pytest.raises(UserError, match="seed: got 4; expected 3"):
        profile(Small(), points, ProfileRecipe(**{**vars(RECIPE), "seed": 4}), path, resume=True)
    counts: list[int] = []
    profile(Small(), points, RECIPE, path, resume=True, on_points=counts.append)
    assert path.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sum(counts) == 10 and counts[0] == sum(len(b) for b in RECIPE.batches(points)[:killed_after])


def test_one_point_at_one_timestep_is_enough(tmp_path):
    points = points_of(tmp_path, trajectories=1, steps=1)
    found = profile(Small(), points, ProfileRecipe(), tmp_path / "stats.npz")
    assert found.timesteps == [1000.0] and len(found.points) == 1


def test_activations_that_are_not_finite_name_their_layer_and_timestep(tmp_path):
    points, model = points_of(tmp_path), Small()
    network = model.network()
    fc1 = network.multimodal_transformer_blocks[1].image_transformer_block.mlp.fc1
    fc1.bias = mx.where(mx.arange(fc1.bias.size) == 7, mx.array(float("nan")), fc1.bias)
    model.network = lambda: network  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(
        DitqError, match=r"blocks\.1\.image.*mlp\.fc2 at timestep .* are not finite; .*overflowed"
    ):
        profile(model, points, RECIPE, tmp_path / "stats.npz")
    assert not (tmp_path / "stats.npz").exists()


def test_points_of_another_model_are_refused(tmp_path):
    from ditq.models import load

    with pytest.raises(UserError, match="text features: got 40; expected 128 as mini has"):
        profile(load("mini"), points_of(tmp_path), RECIPE, tmp_path / "stats.npz")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": 0}, "--num-samples: got 0"),
        ({"batch_size": 0}, "--batch-size: got 0"),
        ({"inputs": "some"}, "--inputs: got some; expected postgelu or all"),
        ({"shard": (2, 2)}, "--shard: got 2/2"),
    ],
)
def test_impossible_recipes_are_explained(fields, message):
    with pytest.raises(UserError) as caught:
        ProfileRecipe(**fields)
    assert message in str(caught.value)


def test_other_and_damaged_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", xs=np.zeros(3))
    with pytest.raises(UserError, match="None version None; expected ditq.activation_statistics version 1"):
        read_statistics(tmp_path / "other.npz")
    path = tmp_path / "stats.npz"
    profile(Small(), points_of(tmp_path), RECIPE, path)
    with np.load(path) as file:
        arrays = dict(file)
    key = f"{path_of(0)}::t=1000.0::"
    np.savez(tmp_path / "bad.npz", **{k: v for k, v in arrays.items() if k != key + "max"})
    with pytest.raises(UserError, match="t=1000.0::max; expected a file of profile_postgelu"):
        read_statistics(tmp_path / "bad.npz")
    meta = json.loads(str(arrays["__meta__"]))
    meta["sites"][path_of(0)]["label"] = 7
    np.savez(tmp_path / "bad.npz", **{**arrays, "__meta__": np.array(json.dumps(meta))})
    with pytest.raises(UserError, match="got a wrong label and stream of .*fc2; expected a file of"):
        read_statistics(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", **{**arrays, key + "max": arrays[key + "max"] * np.nan})
    with pytest.raises(UserError, match="not finite: .*fc2 at timestep 1000.0; profile the model again"):
        read_statistics(tmp_path / "bad.npz")


def test_files_of_older_releases_call_layers_by_their_paths(tmp_path):
    found = profile(Small(), points_of(tmp_path), RECIPE, tmp_path / "stats.npz")
    assert found.names[path_of(0)] == ("mm_00_img", "image")
    del found.meta["sites"]
    write_statistics(tmp_path / "old.npz", found)
    old = read_statistics(tmp_path / "old.npz")
    same(old, found)
    assert old.names[path_of(0)] == (path_of(0), None)
