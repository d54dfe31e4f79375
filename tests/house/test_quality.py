"""ruff and pyright find nothing, and shapes are really checked while the tests run."""

import subprocess
import sys

import mlx.core as mx
import pytest
from jaxtyping import TypeCheckError

from ditq.models import Conditioning
from tests.house.checker import ROOT


def tool(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command",
    [("check", "--output-format=concise", "."), ("format", "--check", ".")],
    ids=lambda command: command[0],
)
def test_ruff_finds_nothing(command):
    found = tool("ruff", *command)
    assert not found.returncode, found.stdout + found.stderr


def test_pyright_finds_nothing():
    found = tool("pyright", "--pythonpath", sys.executable)
    assert not found.returncode, found.stdout + found.stderr


def test_wrong_shape_is_an_error():
    Conditioning(mx.zeros((2, 7, 40)), mx.zeros((2, 24)))
    with pytest.raises(TypeCheckError):
        Conditioning(mx.zeros((2, 7, 40)), mx.zeros((3, 24)))
