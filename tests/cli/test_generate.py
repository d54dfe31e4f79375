"""`python -m src.generate` as a user meets it: pictures, metadata, refusals, interruption, resumption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ditq.cli.generate import main
from ditq.core.files import read_image

ROOT = Path(__file__).parents[2]
FAST = ["--steps", "3"]
SCRIPTS = ("01_collect_calibration_data", "02_quantize_model", "03_benchmark", "generate_samples")


def succeeds(capsys, *argv) -> str:
    main([str(arg) for arg in argv])
    return capsys.readouterr().out


def test_pictures_carry_their_prompt_seed_and_settings(capsys, tmp_path):
    out = succeeds(
        capsys, "a fox in the snow", "an owl", "--out", tmp_path, "--seed", 7, "--cfg-weight", 2, *FAST
    )
    assert "2 drawn, 128x128, 3 steps" in out and "0000_a-fox-in-the-snow.png" in out
    assert sorted(os.listdir(tmp_path)) == ["0000_a-fox-in-the-snow.png", "0001_an-owl.png"]
    picture, text = read_image(tmp_path / "0001_an-owl.png")
    assert picture.shape == (128, 128, 3) and picture.std() > 1
    wanted = {
        "prompt": "an owl",
        "seed": "8",
        "model": "mini",
        "steps": "3",
        "guidance": "2.0",
        "shift": "1.0",
    }
    assert wanted.items() <= text.items()


def test_a_picture_is_drawn_again_from_its_own_seed(capsys, tmp_path):
    succeeds(capsys, "a fox", "an owl at night", "--out", tmp_path / "both", "--batch-size", 1, *FAST)
    succeeds(capsys, "an owl at night", "--out", tmp_path / "one", "--seed", 1, *FAST)
    both = read_image(tmp_path / "both" / "0001_an-owl-at-night.png")[0]
    one = read_image(tmp_path / "one" / "0000_an-owl-at-night.png")[0]
    assert np.array_equal(both, one)


def test_another_sampler_draws_another_picture_and_says_so(capsys, fails, tmp_path):
    drawn = {}
    for sampler in ("euler", "ddim", "dpm++2m"):
        succeeds(capsys, "a fox", "--out", tmp_path / sampler, "--sampler", sampler, "--steps", 5)
        drawn[sampler] = read_image(tmp_path / sampler / "0000_a-fox.png")
    assert "sampler" not in drawn["euler"][1] and "noise" not in drawn["euler"][1]
    assert drawn["ddim"][1]["sampler"] == "ddim" and drawn["dpm++2m"][1]["sampler"] == "dpm++2m"
    far = [np.abs(drawn[name][0].astype(int) - drawn["euler"][0]).max() for name in ("ddim", "dpm++2m")]
    assert far[0] <= 1 < far[1]  # on straight paths DDIM takes Euler's steps
    message = "schedule: got leading; expected uniform or diffusionkit"
    assert message in fails(main, "a fox", "--out", tmp_path / "x", "--schedule", "leading")


def test_prompts_file_and_the_baselines_spelling(capsys, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# two\na fox\n\n  a pig under water  \n")
    out = succeeds(capsys, "--prompts_file", file, "--output_dir", tmp_path / "out", "--json", *FAST)
    result = json.loads(out)
    assert [picture["prompt"] for picture in result["pictures"]] == ["a fox", "a pig under water"]
    assert all(Path(picture["path"]).exists() for picture in result["pictures"])


def test_dry_run_writes_nothing(capsys, tmp_path):
    out = succeeds(capsys, "a fox", "--out", tmp_path / "out", "--dry-run")
    assert "pictures to draw: 1 of 128x128 with mini, 28 steps, 4 at once" in out
    assert "on this machine as it is now" in out and not (tmp_path / "out").exists()


def test_an_earlier_run_is_refused_resumed_or_replaced(capsys, fails, tmp_path):
    run = ["a fox", "an owl", "--out", tmp_path, *FAST]
    succeeds(capsys, *run)
    first, second = (tmp_path / name for name in ("0000_a-fox.png", "0001_an-owl.png"))
    kept = first.read_bytes()
    assert "use --resume, --force or another --out" in fails(main, *run)
    second.unlink()
    assert "1 drawn, 1 kept" in succeeds(capsys, *run, "--resume")
    assert first.read_bytes() == kept and second.exists()
    assert "seed '0'; expected '5'" in fails(main, *run, "--resume", "--seed", 5)
    assert "2 drawn" in succeeds(capsys, *run, "--force")
    assert first.read_bytes() == kept


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "prompts: got none"),
        (["a fox", " "], "an empty prompt"),
        (["\u200b\ufeff"], "an empty prompt"),
        (["a fox", "--prompts-file", "nowhere.txt"], "nowhere.txt: got no such file"),
        (["a fox", "--size", "130"], "a multiple of 16"),
        (["a fox", "--size", "wide"], "pixels, such as 512, or WIDTHxHEIGHT"),
        (["a fox", "--size", "128x7"], "picture height: got 7"),
        (["a fox", "--steps", "0"], "steps: got 0"),
        (["a fox", "--seed", "-1"], "--seed: got -1"),
        (["a fox", "--batch-size", "0"], "--batch-size: got 0"),
        (["a fox", "--cfg-weight", "-2"], "--cfg-weight: got -2; expected at least 0"),
        (["a fox", "--model-path", "nowhere"], "nowhere: got no such file"),
        (["a fox", "--model", "sd4"], "invalid choice: 'sd4'"),
    ],
)
def test_mistakes_are_explained_with_status_2(fails, tmp_path, argv, message):
    assert message in fails(main, *argv, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_prompt_file_is_explained(fails, tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    assert "empty.txt: got no prompts" in fails(main, "--prompts-file", tmp_path / "empty.txt")


def test_unknown_words_are_a_warning_line(capsys, tmp_path):
    main(["a striped fox", "--out", str(tmp_path), *FAST])
    err = capsys.readouterr().err
    assert "warning: mini does not know 'striped' in 'a striped fox'" in err and "UnknownWords" not in err


def test_output_below_a_file_is_explained(fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "a file; expected a folder" in fails(main, "a fox", "--out", tmp_path / "file", *FAST)


def test_interrupted_run_keeps_finished_pictures_and_resumes(tmp_path):
    command = [
        sys.executable,
        "-m",
        "src.generate",
        *["a fox"] * 40,
        "--batch-size",
        "1",
        "--out",
        str(tmp_path),
    ]
    # tests that a shell runs in the background ignore Ctrl-C, and so would what they start
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("0*.png"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "--resume goes on" in err
    finished = sorted(tmp_path.iterdir())
    assert 2 <= len(finished) < 40 and all(path.name.endswith("_a-fox.png") for path in finished)
    for path in finished:
        read_image(path)


@pytest.mark.parametrize("command", ["-m src.generate", *(f"scripts/{name}.py" for name in SCRIPTS)])
def test_help_calls_the_command_as_it_was_called(command):
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python {command} [-h]")


def test_offline_downloads_nothing_and_says_so_at_once(tmp_path):
    command = [sys.executable, "-m", "src.generate", "a fox", "--model", "sd3-medium", "--out", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    own = {**environment, "HF_HOME": str(tmp_path / "empty")}
    ended = subprocess.run(
        [*command, "--offline"], cwd=ROOT, env=own, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: sd3-medium: got no sd3_medium.safetensors on this disk")
    assert "HF_HUB_OFFLINE" in ended.stderr
