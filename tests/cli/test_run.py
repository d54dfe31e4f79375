"""How commands end: signals, closed pipes, full disks, short memory, warnings, and a folder that is in use."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from ditq.cli import generate, quantize
from ditq.cli.folders import begun
from ditq.cli.output import one_line, say
from ditq.cli.run import run
from ditq.core.files import write_text
from tests.house.checker import ROOT


def ends(capsys, body, status: int) -> str:
    """What a command's body that ends with this status leaves on standard error: one line."""
    with pytest.raises(SystemExit) as ended:
        run(body)
    out, err = capsys.readouterr()
    assert ended.value.code == status and out == "" and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_a_command_as_ctrl_c_does(capsys, number, status):
    cleaned = []

    def body():
        try:
            os.kill(os.getpid(), getattr(signal, number))
            time.sleep(5)
        finally:
            cleaned.append(True)

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    # a background shell ignores the one, nohup the other
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}
    try:
        assert ends(capsys, body, status).startswith("interrupted: ")
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert cleaned and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def raises(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/full/a.npz"), "/full/a.npz: got No space left"),
        (OSError(errno.EFBIG, "File too large"), "standard output: got File too large; free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/elsewhere/x"),
            "/elsewhere/x: got Permission denied",
        ),
        (MemoryError(), "memory: got too little memory; take a smaller --batch-size"),
        (RuntimeError("[malloc_or_wait] Unable to allocate 123 bytes."), "memory: got too little memory ("),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"), "memory: got too"),
    ],
)
def test_what_the_machine_lacks_is_a_line(capsys, error, said):
    assert ends(capsys, raises(error), 2).startswith(
        f"error: {said}" if said[0] != "s" else "error: the disk or"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("[matmul] shapes"), KeyError("x"), OSError(errno.ENOTDIR, "?")]
)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(raises(error))


def test_a_warning_is_a_line_and_is_told_once(capsys):
    def body():
        for _ in range(3):
            warnings.warn("two\nlines", stacklevel=1)

    run(body)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_the_user_s_settings_of_warnings_win(capsys, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["ignore"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(lambda: warnings.warn("hidden", stacklevel=1))
        assert capsys.readouterr().err == ""
        warnings.simplefilter("error")
        assert ends(capsys, lambda: warnings.warn("an error now", stacklevel=1), 1) == "error: an error now\n"


def test_lines_stay_lines():
    assert one_line("a\nb\r\x1b[0m \udce9") == "a b\\r\\x1b[0m \\udce9"


def test_output_into_a_closed_pipe_is_quiet(monkeypatch):
    code = "import src\nfrom ditq.cli.{} import main\nmain({})"
    for step, argv in (("quantize", ["--list"]), ("main", ["generate", "--help"])):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-c", code.format(step, argv)], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b""), step


def test_nothing_is_said_to_a_stream_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    say("nobody reads this")


def test_a_folder_that_another_process_holds_is_refused(fails, tmp_path):
    code = "import src, sys, time\nfrom ditq.core.files import lock\nwith lock(sys.argv[1]):\n print(1, flush=True)\n"
    argv = [sys.executable, "-c", code + " time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
            err = fails(generate.main, "a fox", "--out", tmp_path)
            assert f"another run is using (process {holder.pid} " in err and "wait for it" in err
        finally:
            holder.kill()
    generate.main(["a fox", "--steps", "1", "--out", str(tmp_path), "--json"])  # its lock is stale


def test_home_is_expanded_after_an_equals_sign(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    generate.main(["a fox", "--out=~/pics", "--dry-run", "--json"])
    assert json.loads(capsys.readouterr().out)["output"] == str(tmp_path / "pics")


def test_a_disk_that_is_too_small_is_refused_in_numbers_that_differ(
    fails, calibration, tmp_path, monkeypatch
):
    monkeypatch.setattr("ditq.cli.folders.free_bytes", lambda folder: 900_000)
    for more in ([], ["--dry-run"]):
        argv = [
            "--recipe",
            "w4a8-rtn",
            "--calib",
            calibration,
            "--out",
            tmp_path / "out",
            "--num-images",
            "2",
        ]
        err = fails(quantize.main, *argv, *more)
        assert "got 900.0 kB free; expected at least " in err and " MB; use a greater --stride" in err
    assert os.listdir(tmp_path) == []


def test_a_run_that_fails_takes_its_plan_away_only_before_anything_is_finished(tmp_path):
    for name, finished in (("nothing", False), ("something", True)):
        with pytest.raises(KeyboardInterrupt), begun(tmp_path / name, "plan.json"):
            write_text(tmp_path / name / "plan.json", "{}")
            if finished:
                (tmp_path / name / "samples").mkdir()
            raise KeyboardInterrupt
    assert not (tmp_path / "nothing").exists()
    assert sorted(os.listdir(tmp_path / "something")) == ["plan.json", "samples"]
    with begun(tmp_path / "something", "plan.json", ("samples",)):
        assert not (tmp_path / "something" / "samples").exists()


def test_ctrl_c_while_a_step_is_importing_is_silent():
    code = (
        "import signal, sys; sys.argv[0] = '-m'; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import src; signal.raise_signal(signal.SIGINT)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")


def test_ctrl_c_is_heard_while_a_command_runs():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            run(lambda: signal.raise_signal(signal.SIGINT))
        assert ended.value.code == 130 and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
