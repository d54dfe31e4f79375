"""OpenBLAS really takes the place of MLX's reference BLAS, and its absence is told once, in one line."""

import ctypes
import subprocess
import sys

import pytest

from ditq.core.platform import OPENBLAS, prepare

SECONDS = """
import time, mlx.core as mx
with mx.stream(mx.cpu):
    x = mx.random.normal((512, 512)); mx.eval(x, x @ x)
    start = time.perf_counter(); mx.eval(x @ x, x @ x.T)
    print(time.perf_counter() - start)
"""
NO_OPENBLAS = "import ctypes\ndef CDLL(*args, **options): raise OSError('no such file')\nctypes.CDLL = CDLL\n"


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"import src\n{code}"], capture_output=True, text=True, check=True
    )


def has_openblas() -> bool:
    try:
        ctypes.CDLL(OPENBLAS)
    except OSError:
        return False
    return True


linux = pytest.mark.skipif(sys.platform != "linux", reason="only MLX's Linux wheels carry a reference BLAS")
openblas = pytest.mark.skipif(not has_openblas(), reason=f"{OPENBLAS} is not installed")


@linux
@openblas
def test_openblas_multiplies_several_times_faster_than_the_reference():
    ours, reference = python(f"import ditq\n{SECONDS}"), python(SECONDS)
    assert 3 * float(ours.stdout) < float(reference.stdout) and not ours.stderr


@linux
def test_missing_openblas_is_told_in_one_line_and_nothing_else_changes():
    found = python(
        f"{NO_OPENBLAS}from ditq.core.platform import prepare\nprint(prepare().blas, prepare().blas)"
    )
    assert found.stdout == "reference reference\n"
    assert found.stderr.count("\n") == 1 and "apt-get install libopenblas0-pthread" in found.stderr


@linux
def test_mlx_imported_first_is_told_in_one_line():
    found = python("import mlx.core\nimport ditq")
    assert found.stderr.count("\n") == 1 and "Import ditq first" in found.stderr


def test_preparing_again_returns_the_same():
    assert prepare() is prepare()
    assert prepare().device in ("cpu", "gpu") and prepare().blas in ("Accelerate", "OpenBLAS", "reference")
