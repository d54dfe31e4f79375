"""Block by block: files, resumption after a kill, and what is handed from block to block."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from ditq import capture
from ditq.calibration import BlockCache, read_block_cache
from ditq.checkpoint.npz_run.block_file import block_file, read_block
from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.spec import Spec
from ditq.models import load
from ditq.models.state import run_block, take_rows
from ditq.quantization import WeightTrack, quantize_weights
from ditq.quantization.driver import thinned
from ditq.weights import RTN, AdaRound
from ditq.weights.problem import silent
from tests.house.checker import ROOT

QUICK = AdaRound(iterations=6, batch_size=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> BlockCache:
    """Three pictures of mini at four steps: 24 rows."""
    folder = tmp_path_factory.mktemp("calibration")
    for step, flags in (
        (
            "generate_calibration_data",
            "--model mini --num-images 3 --num-steps 8 --cfg-weight 3 --batch-size 3",
        ),
        ("cache_adaround_data", "--num-images 3 --stride 2 --batch-size 3"),
    ):
        command = [sys.executable, "-m", f"src.{step}", *flags.split(), "--calib-dir", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return read_block_cache(folder / "adaround_cache")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A whole run: its folder, its config, and the iterations that it told."""
    folder, told = tmp_path_factory.mktemp("finished"), []
    config = quantize_weights(
        load("mini").network(),
        cache,
        WeightTrack(QUICK, Spec(4, group_size=64)),
        folder,
        on_iteration=lambda *args: told.append(args[:2]),
    )
    return folder, config, told


def test_a_run_is_complete_and_true_to_its_config(finished):
    folder, config, told = finished
    assert read_json(folder / "config.json") == config
    assert told == [(block, i) for block in range(5) for i in range(1, 7)]
    assert config["blocks"] == 5 and [told["block"] for told in config["per_block"]] == [0, 1, 2, 3, 4]
    for number, report in enumerate(config["per_block"]):
        weights, activations, meta = read_block(folder, number, 8)
        assert len(weights) == (12 if number < 4 else 9)
        assert set(activations) == set(weights)
        assert report["error"] <= report["error_rounding"]
        assert meta["report"]["error"] == report["error"]


def test_every_block_of_mini_beats_rounding(finished):
    _, config, _ = finished
    assert not config["kept_rounding"]
    for report in config["per_block"]:
        assert report["error"] < 0.85 * report["error_rounding"], report["block"]


def test_blocks_that_are_left_out_stay_float(cache, tmp_path):
    mmdit = load("mini").network()
    config = quantize_weights(mmdit, cache, WeightTrack(RTN(), Spec(4), 16, blocks=(2,)), tmp_path)
    assert [report["block"] for report in config["per_block"]] == [2]
    assert not block_file(tmp_path, 0).exists()
    alone = config["per_block"][0]["error"]
    after = quantize_weights(mmdit, cache, WeightTrack(RTN(), Spec(4), 16), tmp_path / "all")["per_block"][2]
    assert after["error"] > alone  # the blocks before it now hand on their errors


def test_resuming_with_other_settings_names_the_field(cache, tmp_path):
    mmdit = load("mini").network()
    quantize_weights(mmdit, cache, WeightTrack(RTN(), Spec(4), blocks=(0,)), tmp_path)
    with pytest.raises(UserError, match="earlier run"):
        quantize_weights(mmdit, cache, WeightTrack(RTN(), Spec(4), blocks=(0,)), tmp_path)
    with pytest.raises(UserError, match="recipe"):
        quantize_weights(mmdit, cache, WeightTrack(RTN(), Spec(3), blocks=(0,)), tmp_path, resume=True)
    with pytest.raises(UserError, match="--block-numbers"):
        quantize_weights(mmdit, cache, WeightTrack(RTN(), Spec(3), blocks=(5,)), tmp_path / "none")
    with pytest.raises(UserError, match="--bits-a"):
        WeightTrack(RTN(), Spec(4), activation_bits=12)


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits(cache, tmp_path):
    command = [
        sys.executable, "-m", "src.adaround_optimize", "--cache-dir", str(cache.folder), "--iters", "8",
        "--batch-size", "4",
    ]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.perf_counter()
    subprocess.run([*command, "--output-dir", str(whole)], cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    rng = np.random.default_rng()
    for _ in range(3):
        run = subprocess.Popen(
            [*command, "--output-dir", str(broken), "--resume"], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(float(rng.uniform(0.4, 0.9)) * seconds)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    subprocess.run(
        [*command, "--output-dir", str(broken), "--resume"], cwd=ROOT, check=True, capture_output=True
    )
    for number in range(5):
        assert block_file(whole, number).read_bytes() == block_file(broken, number).read_bytes()
    one, other = (read_json(folder / "config.json") for folder in (whole, broken))
    for config in (one, other):
        del config["seconds"]
        for report in config["per_block"]:
            del report["seconds"]
    assert one == other
    assert (broken / "adaround_loss.png").exists() and (broken / "adaround_errors.png").exists()


def test_curves_are_thinned_by_means():
    assert thinned([]) == []
    assert thinned([1.0, 2.0]) == [1.0, 2.0]
    assert len(thinned(list(range(1000)))) == 200
    assert thinned(list(range(1000)))[0] == 2.0


def _whole(stream):
    return take_rows({"one": stream}, np.arange(stream.shape[0]))["one"]


def test_a_block_receives_what_the_quantized_block_before_it_returns(cache, tmp_path):
    mmdit, problems = load("mini").network(), []

    @dataclass(frozen=True)
    class Spy(RTN):
        def quantize(self, problem, on_iteration=silent):
            problems.append(problem)
            return super().quantize(problem, on_iteration)

    quantize_weights(mmdit, cache, WeightTrack(Spy(), Spec(3), 16, blocks=(0, 1)), tmp_path)
    weights = read_block(tmp_path, 0, 8)[0]
    first, second = problems
    assert mx.array_equal(_whole(first.quantized_inputs["image"]), _whole(cache.state(0)["image"]))
    assert mx.array_equal(_whole(second.inputs["text"]), _whole(cache.state(1)["text"]))
    assert first.carried == ("image", "text") and set(first.inputs) == {"image", "text", "modulation.0"}
    block = mmdit.blocks[0]
    layers = {path: capture.layers(block)[first.inside(path)] for path in weights}
    replaced = {
        first.inside(path): capture.with_weight(layers[path], weight.values())
        for path, weight in weights.items()
    }
    with capture.swapped(block, replaced):
        expected = run_block(block, take_rows(first.inputs, np.arange(first.rows)))
    for name in ("image", "text"):
        got, wanted = _whole(second.quantized_inputs[name]), expected[name]
        assert mx.abs(got - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()
        assert mx.abs(got - _whole(second.inputs[name])).max().item() > 0
