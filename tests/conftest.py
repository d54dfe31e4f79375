"""Every test checks the shapes and types that `ditq` declares, computes in float32, and starts from the same seeds."""

import os
import sys

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # the arrays are small: a second thread costs more than it gives
os.environ.setdefault("MLX_ENABLE_TF32", "0")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from jaxtyping import install_import_hook

import src  # noqa: F401
import tests.typechecking  # noqa: F401

assert "ditq" not in sys.modules, "ditq was imported before its shapes could be checked"
install_import_hook("ditq", "tests.typechecking.typechecker")
import ditq  # noqa: E402, F401, I001
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402


@pytest.fixture(autouse=True)
def _same_seeds():
    mx.random.seed(0)
    np.random.seed(0)
