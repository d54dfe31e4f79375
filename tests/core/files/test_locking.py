"""One process holds a folder; a second is told who, and what a killed one left is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from ditq.core.errors import UserError
from ditq.core.files.locking import LOCK, lock

HOLD = """
import importlib.util, sys
sys.path.insert(0, "src")
from ditq.core.files.locking import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(UserError) as caught, lock(tmp_path):
        pass
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: got a folder that another run is using (process {holder.pid} on ")
    assert "wait for it, or choose another place" in message
    holder.communicate("")
    with lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_stale(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_it_is_released_on_exceptions_and_may_be_held_twice(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock(tmp_path), lock(tmp_path / "."):
        raise KeyboardInterrupt
    with lock(tmp_path):
        with lock(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1e9}'])
def test_a_lock_that_nobody_holds_is_taken_over(tmp_path, content):
    with_host = content.replace('"pid"', f'"host": "{socket.gethostname()}", "pid"')
    (tmp_path / LOCK).write_text(with_host)
    with lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_another_machine_is_kept(tmp_path):
    (tmp_path / LOCK).write_text('{"pid": 5, "host": "elsewhere", "since": "noon"}')
    with (
        pytest.raises(
            UserError, match="process 5 on elsewhere, since noon.*if it runs no more, remove .*lock"
        ),
        lock(tmp_path),
    ):
        pass


def test_without_locks_of_the_system_the_process_number_decides(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr("fcntl.flock", without)
    for pid, stale in ((99999999, True), (os.getppid(), False)):
        (tmp_path / LOCK).write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
        if stale:
            with lock(tmp_path):
                pass
        else:
            with pytest.raises(UserError, match=f"process {pid}"), lock(tmp_path):
                pass


def test_a_folder_is_made_and_an_empty_one_removed_again(tmp_path):
    with lock(tmp_path / "new" / "er"):
        (tmp_path / "new" / "er" / "file").write_text("x")
    assert (tmp_path / "new" / "er" / "file").exists()
    with lock(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["file/x", "a\0b", "x" * 300])
def test_what_can_be_no_folder_is_a_users_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), lock(tmp_path / name):
        pass
