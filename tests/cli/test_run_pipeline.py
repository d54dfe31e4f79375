"""The whole pipeline on mini, smallest amounts: what it writes, what it passes over, and what a kill costs."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from ditq.checkpoint import read_folder
from ditq.cli.pipeline_page import ordinal
from ditq.cli.run_pipeline import main
from ditq.core.files import read_image
from ditq.evaluation import fingerprint_of, read_report
from tests.house.checker import ROOT

AMOUNTS = {
    "steps": 3,
    "images": 2,
    "cache-images": 2,
    "cache-stride": 2,
    "statistics-images": 2,
    "statistics-stride": 2,
    "iters": 3,
    "tuning": 2,
    "prompts": 2,
    "batch-size": 2,
}
LEAST = [word for name, count in AMOUNTS.items() for word in (f"--{name}", str(count))]
STEPS = [
    "generate_calibration_data",
    "collect_layer_activations",
    "analyze_activations",
    "cache_adaround_data",
    "quantize",
    "evaluate",
    "comparison_page",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one undisturbed run."""
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    main(["--out", str(folder), *LEAST])
    return folder


def result(folder) -> tuple:
    """What a run is for, without times."""
    report = read_report(folder / "evaluation" / "report.json")
    pictures = [read_image(path)[0] for path in sorted((folder / "evaluation").rglob("[0-9]*.png"))]
    digest = fingerprint_of(read_folder(folder / "checkpoint"))
    scores = [entry.scores for entry in [report.reference, report.floor, *report.variants]]
    return digest, scores, [picture.tobytes() for picture in pictures]


def test_every_step_leaves_what_it_is_for(finished):
    for place in (
        "calibration_data/manifest.json",
        "calibration_data/activations/quant_config.json",
        "calibration_data/adaround_cache/metadata.json",
        "quantization/blocks.json",
        "quantization/weights/mm3.npz",
        "quantization/weights/tuning.npz",
        "checkpoint/config.json",
        "evaluation/report.json",
        "comparison.png",
    ):
        assert (finished / place).exists(), place
    page = (finished / "comparison.html").read_text()
    for wanted in (
        "W4A8 AdaRound",
        "W4A16 rounding",
        "Errors block by block",
        "activations.npz",
        "other seeds",
    ):
        assert wanted in page
    report = read_report(finished / "evaluation" / "report.json")
    assert [entry.name for entry in report.variants] == [
        "W4A16 rounding",
        "W4A16 AdaRound",
        "W4A8 rounding",
        "W4A8 AdaRound",
    ]


def test_a_finished_run_is_passed_over(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    started = time.perf_counter()
    main(["--out", str(finished), *LEAST, "--resume", "--json"])
    assert time.perf_counter() - started < 2
    told = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in told["steps"]] == STEPS
    assert not any(step["anew"] for step in told["steps"])
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_other_settings_and_a_second_run_are_refused(finished, capsys):
    for given, message in (
        ([], "use --resume, --force or another place"),
        (["--resume", "--iters", "9"], "amounts"),
        (["--resume", "--bits-a", "6"], "bits_a"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--out", str(finished), *LEAST, *given])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_dry_run_computes_nothing(tmp_path, capsys):
    main(["--out", str(tmp_path / "none"), "--quick", "--dry-run"])
    told = capsys.readouterr().out
    assert "mini to W4A8, 7 steps" in told and "on this machine as it is now" in told
    main(["--out", str(tmp_path / "none"), "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == STEPS == list(told["seconds_by_step"])
    assert told["seconds"] >= 0.99 * sum(told["seconds_by_step"].values()) > 0
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_run_killed_again_and_again_gives_the_same(finished, tmp_path):
    folder, moments = tmp_path / "killed", random.Random(3)
    command = [sys.executable, "-m", "src.run_pipeline", "--out", str(folder), *LEAST]
    kills = 0
    for _ in range(40):
        run = subprocess.Popen(
            [*command, "--resume"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # The last runs are left alone: on a slow machine even starting may take longer than the longest moment.
        patience = moments.uniform(1.5, 6.0) if kills < 5 else 300
        try:
            assert run.wait(patience) == 0
            break
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
    assert kills and result(folder) == result(finished)


def test_every_second_timestep_is_said_in_english():
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 22)] == [
        "",
        "2nd ",
        "3rd ",
        "4th ",
        "11th ",
        "22nd ",
    ]
