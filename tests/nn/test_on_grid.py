"""A float layer behind a grid, against NumPy."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.nn import StepClock, on_grids

TIMESTEPS = np.array([900.0, 100.0], np.float32)
X = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32) * 2
FACTORS = np.array([1, 2, 1, 1, 4, 1], np.float32)
OWN = {
    "none": {},
    "tensor": {"shift": np.array([[0.3], [-0.2]])},
    "channels": {"shift": np.random.default_rng(2).standard_normal((2, 6))},
    "dual-scale": {"below": np.array([0.25, 2.0])},
    "per-token": {"per_token": np.array([1.0, 0.5])},
}


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("smooth", [None, FACTORS])
def test_a_layer_gets_what_its_grid_holds(kind, smooth):
    mx.random.seed(0)
    layer, clock = nn.Linear(6, 4), StepClock()
    scale = np.ones(2) if kind == "per-token" else np.array([0.3, 0.7])
    rows = GridRows.of([4, 4], scale, **OWN[kind])
    grid = TimestepGrid(TIMESTEPS, rows, None if smooth is None else mx.array(smooth))
    made = on_grids({"layer": layer}, {"layer": grid, "other": grid}, clock)
    clock.follow(TIMESTEPS)
    for step in (0, 1):
        clock.set(step)
        x = X if smooth is None else X / smooth
        shift = OWN[kind]["shift"][step] if "shift" in OWN[kind] else 0.0
        size = np.full(x.shape, scale[step])
        if kind == "per-token":
            size = np.broadcast_to(
                OWN[kind]["per_token"][step] * np.abs(x).max(-1, keepdims=True) / 7, x.shape
            )
        if kind == "dual-scale":
            size = np.where(x < 0, size * OWN[kind]["below"][step], size)
        rounded = np.clip(np.round((x - shift) / size), -8, 7) * size + shift
        wanted = rounded * (1 if smooth is None else smooth) @ np.array(layer.weight).T + np.array(layer.bias)
        np.testing.assert_allclose(np.array(made["layer"](mx.array(X))), wanted, atol=2e-5)
