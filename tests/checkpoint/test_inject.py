"""Injected layers against fake quantization by hand, before, during and after; misfits are named."""

from dataclasses import replace
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.activations import ActivationTable
from ditq.capture import layers, swapped
from ditq.checkpoint import QuantizedModel, inject, injected
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models import Conditioning, TextToImage
from ditq.models.mmdit import MMDiT
from ditq.nn import QuantizedLinear, WeightOnlyLinear, clock_of
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import diffusionkit_sigmas
from ditq.sampling.steppers import noise
from tests.checkpoint.small import CONFIG, IMAGE, TIMESTEPS, block_layers, checkpoint, model
from tests.models.families import inputs
from tests.sampling.test_generate import Small

SIGMAS = diffusionkit_sigmas(6, 3.0)
FC2 = f"{IMAGE}.mlp.fc2"


class FakeLinear(nn.Module):
    """The oracle: a float layer whose input is put on its grid and taken off again, and whose weight was."""

    def __init__(self, weight, bias, grid=None):
        super().__init__()
        self.kept, self.grid, self.row = (np.array(weight.values()), np.array(bias), weight.smooth), grid, 0

    def __call__(self, x):
        weight, bias, smooth = self.kept
        x = np.array(x, np.float32)
        if smooth is not None:
            x = x / np.array(smooth)
        if self.grid is not None:
            rows = self.grid.rows
            scale, low, high = (np.array(part)[self.row] for part in (rows.scale, rows.qmin, rows.qmax))
            shift = 0.0 if rows.shift is None else np.array(rows.shift)[self.row]
            x = np.clip(np.rint((x - shift) / scale), low, high) * scale + shift
        return mx.array((x @ weight.T + bias).astype(np.float32))


def fakes(network, parts, activations: bool) -> dict[str, FakeLinear]:
    layers = block_layers(network)
    grids = parts.activations.grids if activations else {}
    return {path: FakeLinear(w, layers[path].bias, grids.get(path)) for path, w in parts.weights.items()}


def conditioning(batch: int, seed: int) -> Conditioning:
    _, text, pooled = inputs(CONFIG, batch, 8, 8, seed)
    return Conditioning(mx.array(text), mx.array(pooled))


def velocities(network, compiled=False, set_row=None) -> list[np.ndarray]:
    """The guided velocity of the same latents at every step of a schedule that was not calibrated."""
    denoise = Denoiser(network, compiled=compiled).run(conditioning(1, 3), conditioning(1, 4), SIGMAS, 4.0)
    x, found = noise([0], 8, 8, 16), []
    for step in range(len(SIGMAS) - 1):
        if set_row is not None:
            set_row(int(np.abs(TIMESTEPS - 1000 * SIGMAS[step]).argmin()))
        found.append(np.array(denoise(x, step)))
    return found


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("spec", [Spec(4), Spec(4, True, 32), Spec(8, False), Spec(3, False, 32)], ids=str)
def test_no_picture_depends_on_its_batch(spec, smooth):
    network, sigmas = model(), SIGMAS[:3]
    prompted, negative = conditioning(4, 3), conditioning(1, 4)
    inject(network, checkpoint(network, spec, smooth))

    def drawn(rows: slice) -> np.ndarray:
        denoise = Denoiser(network).run(prompted[rows], negative, sigmas, 4.0)
        return np.stack([np.array(denoise(noise([5, 6, 7, 8][rows], 8, 8, 16), step)) for step in (0, 1)])

    whole = drawn(slice(0, 4))
    for rows in (slice(0, 1), slice(2, 3), slice(1, 4)):
        assert np.array_equal(drawn(rows), whole[:, rows])


def close(got, wanted) -> bool:
    """Equal but for single inputs on the edge of two codes, which float32 may put on either side.

    One such flip moves the velocity by up to half a percent; a neighbouring row of the tables moves it by ten.
    """
    return all(np.abs(a - b).mean() < 0.01 * np.abs(b).mean() for a, b in zip(got, wanted, strict=True))


@cache
def oracle(spec, smooth) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The velocities of fake quantization by hand, and those of the neighbouring rows."""
    network = model()
    layers = fakes(network, checkpoint(network, spec, smooth), activations=True)

    def set_row(row):
        for layer in layers.values():
            layer.row = row

    with swapped(network, layers):
        wanted = velocities(network, set_row=set_row)
        return wanted, velocities(network, set_row=lambda row: set_row((row + 1) % 4))


@pytest.mark.parametrize("backend", ["codes", "packed"])
@pytest.mark.parametrize("spec", [Spec(4), Spec(8, False), Spec(4, True, 64)], ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_w4a8_equals_fake_quantization_at_every_step_of_another_schedule(backend, spec, smooth):
    network = model()
    parts = checkpoint(network, spec, smooth)
    wanted, wrong = oracle(spec, smooth)
    with injected(network, parts, backend=backend):
        assert all(isinstance(dict(network.named_modules())[path], QuantizedLinear) for path in parts.weights)
        got = velocities(network)
    assert close(got, wanted)
    rows = {int(np.abs(TIMESTEPS - 1000 * sigma).argmin()) for sigma in SIGMAS[:-1]}
    assert rows == {0, 1, 2, 3}
    assert not any(close([a], [b]) for a, b in zip(got, wrong, strict=True))


@pytest.mark.parametrize("backend", [None, "packed"])
@pytest.mark.parametrize("smooth", [False, True])
def test_weights_only_equals_dequantized_weights(backend, smooth):
    network = model()
    parts = checkpoint(network, Spec(4, True, 32), smooth, activations=False)
    with swapped(network, fakes(network, parts, activations=False)):
        wanted = velocities(network)
    with injected(network, parts, activations=False, backend=backend):
        kind = WeightOnlyLinear if backend == "packed" else nn.Linear
        assert all(type(dict(network.named_modules())[path]) is kind for path in parts.weights)
        got = velocities(network)
    assert all(np.abs(a - b).max() < 1e-4 for a, b in zip(got, wanted, strict=True))


def test_one_trace_serves_all_steps_of_a_quantized_model(monkeypatch):
    network = model()
    inject(network, checkpoint(network))
    eager, traces, call = velocities(network), [], MMDiT.__call__

    def counted(self, *args, **inputs):
        traces.append(1)
        return call(self, *args, **inputs)

    monkeypatch.setattr(MMDiT, "__call__", counted)
    compiled = velocities(network, compiled=True)
    assert len(traces) == 1
    assert close(compiled, eager)
    assert np.abs(compiled[0] - compiled[-1]).max() > 1e-3


def test_two_runs_may_take_turns_on_one_clock():
    network = model()
    inject(network, checkpoint(network))
    denoiser, x = Denoiser(network), noise([0], 8, 8, 16)
    one = denoiser.run(conditioning(1, 3), None, SIGMAS, 0.0)
    other = denoiser.run(conditioning(1, 3), None, diffusionkit_sigmas(3, 1.0), 0.0)
    alone = one(x, 4)
    mx.eval(alone)
    mx.eval(other(x, 0))
    assert mx.array_equal(one(x, 4), alone)


def test_the_float_model_comes_back_and_permanent_injection_stays():
    network = model()
    parts, before = checkpoint(network), dict(tree_flatten(network.parameters()))
    with pytest.raises(RuntimeError, match="inside"), injected(network, parts):
        raise RuntimeError("inside")
    after = dict(tree_flatten(network.parameters()))
    assert after.keys() == before.keys() and all(mx.array_equal(after[key], before[key]) for key in before)
    inject(network, parts)
    assert not set(layers(network)) & set(parts.weights) and clock_of(network) is not None
    with pytest.raises(UserError, match="no such layer in the model \\(or a quantized one already\\)"):
        inject(network, parts)


def test_a_quantized_model_leaves_its_float_model_alone():
    parent = Small()
    network = model(parent.config)
    parent.network = lambda: network
    quantized = QuantizedModel(parent, checkpoint(network))
    assert isinstance(quantized, TextToImage)
    assert quantized.network() is quantized.network() and clock_of(quantized.network()) is not None
    assert clock_of(network) is None
    assert quantized.network().final_layer.linear.weight is network.final_layer.linear.weight
    assert quantized.skeleton().config == network.config
    for name in ("defaults", "geometry", "prediction", "noise"):
        assert getattr(quantized, name) == getattr(parent, name)
    with pytest.raises(UserError, match="checkpoint: got one of mini; expected one of small"):
        QuantizedModel(parent, checkpoint(network, name="mini"))


def spoilt(parts, path=FC2, **changes):
    return replace(parts, weights={**parts.weights, path: replace(parts.weights[path], **changes)})


def regridded(parts, path=FC2, **changes):
    grids = parts.activations.grids
    if "smooth" in changes:
        changed = replace(grids[path], **changes)
    else:
        changed = replace(grids[path], rows=replace(grids[path].rows, **changes))
    grids = {**grids, path: changed}
    return replace(parts, activations=ActivationTable(parts.activations.timesteps, grids))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda c: replace(c, weights={"blocks.9.fc2": c.weights[FC2]}),
            "blocks.9.fc2: got no such layer",
        ),
        (
            lambda c: replace(c, weights={**c.weights, FC2: c.weights[f"{IMAGE}.mlp.fc1"]}),
            r"fc2: got a weight of shape \(256, 64\); expected \(64, 256\)",
        ),
        (lambda c: spoilt(c, scale=mx.full((64, 1), mx.nan)), "fc2: scale: got values that are not finite"),
        (
            lambda c: spoilt(c, codes=mx.full((64, 256), 9)),
            "fc2: codes: got from 9 to 9; expected from -8 to 7",
        ),
        (
            lambda c: spoilt(c, smooth=mx.ones((256,))),
            "fc2: got smoothing factors of the weight alone; expected the same of both; .*"
            ".*--quant-config.*--smooth none",
        ),
        (
            lambda c: regridded(c, smooth=mx.ones((256,))),
            "fc2: got smoothing factors of the activation grid alone",
        ),
        (
            lambda c: spoilt(regridded(c, smooth=mx.ones((256,))), smooth=mx.full((256,), 2.0)),
            "fc2: got other smoothing factors of the activation grid than of the weight",
        ),
        (
            lambda c: regridded(c, scale=mx.zeros((4,))),
            "fc2: activation scale: got 0; expected steps above 0",
        ),
        (
            lambda c: regridded(c, shift=mx.full((4, 1), mx.inf)),
            "fc2: activation shift: got values that are not",
        ),
        (
            lambda c: regridded(c, shift=mx.zeros((4, 7))),
            "fc2: activation shift: got 7 channels; expected 1 or 256",
        ),
        (lambda c: replace(c, activations=None), "a checkpoint of small: got no activation grids"),
        (
            lambda c: replace(c, activations=ActivationTable(TIMESTEPS, {})),
            "k_proj: got a quantized weight without an activation grid",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_replaced(spoil, message):
    network = model()
    before = layers(network)
    with pytest.raises(UserError, match=message):
        inject(network, spoil(checkpoint(network)))
    assert layers(network) == before
