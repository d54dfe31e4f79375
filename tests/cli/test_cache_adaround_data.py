"""The documented command on `mini`: what it writes, foretells and refuses, and that a kill costs nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ditq.calibration import read_block_cache
from ditq.checkpoint.npz_run.block_file import block_file, read_block
from ditq.cli import cache_adaround_data
from ditq.core import files
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models import load
from ditq.models.state import run_block
from ditq.quantization import WeightTrack, quantize_weights
from ditq.weights import RTN
from tests.calibration.test_block_cache import same_files
from tests.house.checker import ROOT


def run(*argv):
    cache_adaround_data.main([str(arg) for arg in argv])


def test_command_of_the_documents(capsys, fails, calibration, tmp_path):
    folder = tmp_path / "adaround_cache"
    argv = ["--calib-dir", calibration, "--output-dir", folder, "--num-images", 5, "--stride", 5]
    run(*argv, "--force")
    out = capsys.readouterr().out
    assert out.startswith("10 samples x 5 blocks (10 new), 3.5 MB, ") and out.endswith(f"{folder}\n")
    assert sorted(os.listdir(folder)) == ["metadata.json", "samples"]
    assert "0004_005.npz" in os.listdir(folder / "samples")
    cache = read_block_cache(folder)
    assert len(cache) == 20 and cache.meta["model"] == "mini" and cache.meta["storage_dtype"] == "float16"
    assert cache.state(5, [3])["image"].shape == (1, 64, 192)
    with np.load(folder / "samples" / "0002_005.npz") as sample:
        assert sample["mm4__text_out"].shape == (2, 12, 192)
    assert "earlier run; use --resume" in fails(cache_adaround_data.main, *argv)
    run(*argv, "--resume", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["cached"] == 0 and facts["samples"] == 10 and facts["blocks"] == 5
    (folder / "mine.txt").write_text("")
    run(*argv, "--force")
    assert "(10 new)" in capsys.readouterr().out and (folder / "mine.txt").exists()


def test_cache_lies_in_the_calibration_folder_by_default(calibration):
    run("--calib-dir", calibration, "--num-images", 1, "--stride", 9)
    assert len(os.listdir(calibration / "adaround_cache" / "samples")) == 2
    files.remove(calibration / "adaround_cache")


def test_dry_run_tells_passes_memory_time_and_disk_as_they_will_be(capsys, calibration, tmp_path):
    folder = tmp_path / "cache"
    argv = [
        "--calib-dir",
        calibration,
        "--output-dir",
        folder,
        "--batch-size",
        2,
        "--storage-dtype",
        "float32",
        "--num-images",
        5,
        "--stride",
        5,
    ]
    run(*argv, "--dry-run")
    out = capsys.readouterr().out
    assert "samples to cache: 10, 5 pictures x 2 steps; 6 forward passes of 4 rows serve all 5 blocks" in out
    assert "on this machine as it is now" in out and "memory: " in out
    assert "disk: 7.0 MB as float32 in" in out and " are free" in out and not folder.exists()
    run(*argv, "--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["passes"] == 6 and told["free_bytes"] > 0
    run(*argv)
    written = sum(path.stat().st_size for path in folder.rglob("*.npz"))
    assert written == pytest.approx(told["disk_bytes"], rel=0.02)
    run(*argv, "--dry-run", "--resume")
    assert "0 forward passes" in capsys.readouterr().out


def test_a_disk_that_is_too_small_is_refused_beforehand(fails, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr("ditq.cli.folders.free_bytes", lambda folder: 2_000_000)
    argv = ["--calib-dir", calibration, "--output-dir", tmp_path / "cache"]
    for more in ([], ["--dry-run"]):
        err = fails(cache_adaround_data.main, *argv, *more, prints=True)
        assert "got 2.0 MB free; expected at least 4.2 MB; take fewer pictures or a greater stride" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-images", 7], "--num-images: got 7; expected at most 6"),
        (["--stride", 0], "--stride: got 0; expected at least 1"),
        (["--model", "sd3-medium"], "--model sd3-medium: got calibration data of mini"),
        (["--calib-dir", "nowhere"], "nowhere/manifest.json: got no such file"),
    ],
)
def test_bad_flags_are_explained(fails, calibration, tmp_path, argv, message):
    output = ["--output-dir", tmp_path / "cache"]
    assert message in fails(cache_adaround_data.main, "--calib-dir", calibration, *output, *argv)
    assert os.listdir(tmp_path) == []


EVERY_STEP = ["--num-images", 6, "--stride", 1, "--batch-size", 2]
"""60 samples."""


@pytest.fixture(scope="module")
def unbroken(calibration, tmp_path_factory):
    """The cache of an undisturbed run."""
    folder = tmp_path_factory.mktemp("unbroken") / "cache"
    run("--calib-dir", calibration, *EVERY_STEP, "--output-dir", folder)
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_it_resumes_to_identical_files(calibration, unbroken, tmp_path, seed):
    folder, samples = tmp_path / "killed", tmp_path / "killed" / "samples"
    argv = [str(arg) for arg in ["--calib-dir", calibration, *EVERY_STEP, "--output-dir", folder]]
    rng = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "-m", "src.cache_adaround_data", *argv], cwd=ROOT, stderr=subprocess.PIPE
    )
    wanted = rng.randrange(1, 25)
    while process.poll() is None and (not samples.exists() or len(list(samples.glob("0*.npz"))) < wanted):
        time.sleep(0.002)
    time.sleep(rng.random() / 100)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert 0 < len(list(samples.glob("0*.npz"))) < 60
    run(*argv, "--resume")
    same_files(unbroken, folder)


@pytest.fixture(scope="module", params=[16, 8])
def rounded(request, calibration, tmp_path_factory):
    """A float32 cache, and two of the five blocks rounded to four bits, with and without input grids."""
    folder = tmp_path_factory.mktemp("quantized")
    few = ["--num-images", 2, "--stride", 5, "--storage-dtype", "float32"]
    run("--calib-dir", calibration, "--output-dir", folder / "cache", *few)
    cache, network = read_block_cache(folder / "cache"), load("mini").network()
    track = WeightTrack(RTN(), Spec(4), request.param, blocks=(0, 1))
    quantize_weights(network, cache, track, folder / "out")
    return folder, cache, request.param


def test_quantized_stream_is_what_finished_blocks_pass_on(capsys, fails, calibration, rounded):
    folder, cache, bits = rounded
    argv = ["--calib-dir", calibration, "--output-dir", folder / "cache"]
    argv += ["--stream", "quantized", "--adaround-output", folder / "out"]
    run(*argv, "--dry-run")
    assert "samples to cache: 4, 2 pictures x 2 steps; 2 forward passes" in capsys.readouterr().out
    run(*argv)
    assert "4 samples x 5 blocks (4 new)" in capsys.readouterr().out
    assert len(os.listdir(folder / "cache" / "samples_quantized")) == 4
    network = load("mini").network()
    layers = dict(network.named_modules())
    for number in (0, 1):
        for path, weight in read_block(folder / "out", number)[0].items():
            layers[path].weight = weight.effective()
    state = {**cache.given(network), **cache.state(0)}
    for number in (0, 1):
        state = run_block(network.blocks[number], state)
        found = cache.state(number + 1, quantized=True)
        error = [relative(found[name], state[name]) for name in ("image", "text")]
        assert max(error) < (1e-5 if bits == 16 else 0.05)
        assert bits == 16 or min(error) > 1e-4  # eight bits differ from none
        assert relative(found["image"], cache.state(number + 1)["image"]) > 0.01
    assert "block 2 in float" in refused(lambda: cache.state(3, quantized=True))
    assert "earlier run" in fails(cache_adaround_data.main, *argv)
    before = files.read_npz(folder / "cache" / "samples_quantized" / "0000_005.npz")
    run(*argv, "--force")
    after = files.read_npz(folder / "cache" / "samples_quantized" / "0000_005.npz")
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert read_block_cache(folder / "cache").state(5)["image"].shape == (8, 64, 192)
    block_file(folder / "out", 1).rename(folder / "mm1.npz")
    assert "source.1: got" in fails(cache_adaround_data.main, *argv, "--resume")
    (folder / "mm1.npz").rename(block_file(folder / "out", 1))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stream", "quantized"], "--stream quantized: got no --adaround-output"),
        (["--adaround-output", "x"], "--adaround-output: got the float stream; expected --stream quantized"),
        (["--stream", "quantized", "--adaround-output", "nowhere"], "nowhere/plan.json: got no such file"),
        (
            ["--stream", "quantized", "--adaround-output", "x", "--stride", 3],
            "--stride: got 3; expected 5, as in",
        ),
    ],
)
def test_bad_flags_of_the_quantized_stream_are_explained(fails, calibration, rounded, argv, message):
    output = ["--output-dir", rounded[0] / "cache"]
    assert message in fails(cache_adaround_data.main, "--calib-dir", calibration, *output, *argv)


def relative(got, wanted) -> float:
    got, wanted = np.array(got), np.array(wanted)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def refused(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)
