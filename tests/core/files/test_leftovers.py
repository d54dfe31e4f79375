"""What a killed write leaves is known by its name and removed; what a living process writes stays."""

import os
import subprocess
import sys
import time

from ditq.core.files import listed, remove_leftovers, replacing
from ditq.core.files.leftovers import OLD, partial_prefix, process_runs

KILLED = """
import os, signal, sys
sys.path.insert(0, "src")
from ditq.core.files.writing import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_write_is_removed_by_the_next_run(tmp_path):
    path = tmp_path / "samples" / "model.safetensors"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    (left,) = path.parent.iterdir()
    assert listed(path.parent, "*") == [] and not path.exists()
    assert remove_leftovers(tmp_path) == [left]
    assert remove_leftovers(tmp_path / "none") == [] and list(path.parent.iterdir()) == []


def test_what_is_being_written_stays_unless_it_is_old(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        assert remove_leftovers(tmp_path) == []
        then = time.time() - OLD - 1
        os.utime(temporary, (then, then))
        assert remove_leftovers(tmp_path) == [temporary]
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_link_is_removed_and_not_what_it_names(tmp_path):
    (tmp_path / "kept").write_text("x")
    (tmp_path / ".ditq-partial-99999999-a").symlink_to(tmp_path / "kept")
    (tmp_path / "folder").symlink_to("/")
    assert len(remove_leftovers(tmp_path)) == 1 and (tmp_path / "kept").exists()


def test_long_names_can_be_written(tmp_path):
    for name in ("x" * 250 + ".json", "ü" * 120 + ".txt"):
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("x")
        assert (tmp_path / name).exists()
    assert len(partial_prefix("x" * 300)) < 100


def test_processes():
    assert process_runs(os.getpid()) and process_runs(1)
    assert not any(map(process_runs, (0, -1, 2**40, 99999999)))
