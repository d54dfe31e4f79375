"""Convolutions of a family that the checkpoint code does not know: injected, stored, read again, refused by name."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq import capture, models
from ditq.activations import ActivationTable
from ditq.capture import swapped
from ditq.checkpoint import (
    QuantizedCheckpoint,
    QuantizedModel,
    inject,
    injected,
    outline,
    outline_of_folder,
    read_folder,
    read_model,
    write_folder,
)
from ditq.checkpoint.weight_errors import weight_errors
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import round_to_nearest
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedConv2d, WeightOnlyConv2d, clock_of
from tests.checkpoint.small import same
from tests.extending.toy_family import ANATOMY, Toy, ToyConfig, ToyNetwork

TIMESTEPS = np.array([900, 300], np.float32)
INT4 = Spec(4, True, 32)
CONV, MIX = "parts.0.conv", "parts.2.mix"


@pytest.fixture(scope="module")
def toy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy", Toy)
        patch.setitem(models.FAMILIES, "toy", lambda: (ToyConfig, ToyNetwork))
        yield Toy()


def parts_of(network, spec=INT4, smooth=False) -> QuantizedCheckpoint:
    """Layers of the blocks rounded to nearest; grids shifted per channel for convolutions, else not."""
    weights, grids = {}, {}
    for i, (path, layer) in enumerate(capture.layers(network).items()):
        if ANATOMY.site(path).phase != "block":
            continue
        channels, rng = capture.channels(layer), np.random.default_rng(i)
        factors = mx.array(rng.uniform(0.5, 2, channels).astype(np.float32)) if smooth else None
        kernel = layer.weight if factors is None else layer.weight * factors
        codes = round_to_nearest(kernel.reshape(len(kernel), -1), spec)
        weights[path] = QuantizedWeight(*codes, spec, factors)
        shift = rng.normal(0, 0.3, (2, channels)) if isinstance(layer, nn.Conv2d) else None
        rows = GridRows.of([8, 8], rng.uniform(0.02, 0.04, 2), shift)
        grids[path] = TimestepGrid(TIMESTEPS, rows, factors)
    return QuantizedCheckpoint("toy", weights, ActivationTable(TIMESTEPS, grids))


class FakeLayer(nn.Module):
    """The oracle: the float layer, on inputs that were put on their grid and taken off again."""

    def __init__(self, layer, weight, grid=None, row=0):
        super().__init__()
        self.layer, self.grid, self.row = capture.with_weight(layer, weight.values()), grid, row
        self.smooth = weight.smooth

    def __call__(self, x):
        x = np.array(x, np.float32)
        if self.smooth is not None:
            x = x / np.array(self.smooth)
        if self.grid is not None:
            rows = self.grid.rows
            scale, low, high = (np.array(part)[self.row] for part in (rows.scale, rows.qmin, rows.qmax))
            shift = 0.0 if rows.shift is None else np.array(rows.shift)[self.row]
            x = np.clip(np.rint((x - shift) / scale), low, high) * scale + shift
        return self.layer(mx.array(x.astype(np.float32)))


def predictions(network, toy, step=0) -> np.ndarray:
    run = np.array([850.0, 310.0], np.float32)
    clock = clock_of(network)
    if clock is not None:
        clock.follow(run)
        clock.set(step)
    inputs = network.prepare(toy.encode(["one", "two"]), mx.array(run))
    x = mx.array(np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32))
    return np.array(network(x, **inputs.at(step)))


def fakes(network, parts, row=None) -> dict[str, FakeLayer]:
    layers = capture.layers(network)
    grids = {} if row is None else parts.activations.grids
    return {p: FakeLayer(layers[p], w, grids.get(p), row or 0) for p, w in parts.weights.items()}


@pytest.mark.parametrize("backend", ["codes", "packed"])
@pytest.mark.parametrize("smooth", [False, True])
def test_w4a8_equals_fake_quantization_at_every_step(toy, backend, smooth):
    network = capture.sharing(toy.network())
    parts = parts_of(network, smooth=smooth)
    for step in (0, 1):
        with swapped(network, fakes(network, parts, step)):
            wanted = predictions(network, toy, step)
        with injected(network, parts, backend=backend):
            assert isinstance(network.parts[0].conv, QuantizedConv2d)
            got = predictions(network, toy, step)
        # an input on the edge of two codes may fall to either side
        assert np.abs(got - wanted).mean() < 2e-3 * np.abs(wanted).mean()
        with swapped(network, fakes(network, parts, 1 - step)):
            other = predictions(network, toy, step)
        assert np.abs(got - other).mean() > 0.01 * np.abs(wanted).mean()


@pytest.mark.parametrize("backend", [None, "packed"])
def test_weights_only_equal_dequantized_weights(toy, backend):
    network = capture.sharing(toy.network())
    parts = parts_of(network, Spec(3, False, 32), smooth=True)
    with swapped(network, fakes(network, parts)):
        wanted = predictions(network, toy)
    with injected(network, parts, activations=False, backend=backend):
        kind = WeightOnlyConv2d if backend == "packed" else nn.Conv2d
        assert type(network.parts[0].conv) is kind and type(network.parts[2].mix) is kind
        got = predictions(network, toy)
    assert np.abs(got - wanted).max() < 1e-4


@pytest.mark.parametrize("spec", [Spec(4), Spec(5, False, 32), Spec(8)], ids=str)
def test_folders_give_back_every_code(tmp_path, toy, spec):
    parts = parts_of(toy.network(), spec)
    write_folder(tmp_path, toy.network(), parts, mx.float32)
    same(parts, read_folder(tmp_path))
    assert outline_of_folder(tmp_path) == outline(parts)
    stored = mx.load(str(tmp_path / "model.safetensors"))
    assert stored[f"{CONV}.weight"].shape == (32, 9 * 32 * spec.bits // 32)
    assert stored[f"{CONV}.scales"].shape == (32, 9 * 32 // (spec.group_size or 32))
    for activations in (False, True):
        alone = read_model(tmp_path, activations)
        with injected(capture.sharing(toy.network()), parts, activations) as network:
            assert np.array_equal(predictions(alone, toy), predictions(network, toy))


def test_errors_of_weights_undo_the_smoothing(toy):
    network = toy.network()
    errors = weight_errors(network, parts_of(network, Spec(8), smooth=True))
    for path in (CONV, MIX):
        kernel = np.array(network.parts[0].conv.weight if path == CONV else network.parts[2].mix.weight)
        assert 0 < errors[path]["max_abs"] < 0.02 * np.abs(kernel).max()


def test_a_quantized_model_draws_with_them(toy):
    quantized = QuantizedModel(toy, parts_of(toy.network()))
    assert quantized.prediction == "epsilon" and quantized.noise == "ddpm-linear"
    assert isinstance(quantized.network().parts[2].mix, QuantizedConv2d)
    assert isinstance(toy.network().parts[2].mix, nn.Conv2d)


# What is refused


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: replace(p, weights={**p.weights, CONV: p.weights[MIX]}),
            r"parts.0.conv: got a weight of shape \(32, 64\); expected \(32, 288\)",
        ),
        (
            lambda p: replace(p, weights={**p.weights, "conv_in": p.weights[MIX]}),
            r"conv_in: got no such layer in the model",  # it is never quantized
        ),
        (
            lambda p: replace(p, activations=ActivationTable(TIMESTEPS, {})),
            "parts.0.conv: got a quantized weight without an activation grid",
        ),
        (
            lambda p: replace(
                p,
                weights={**p.weights, MIX: replace(p.weights[MIX], smooth=mx.ones((32,)))},
            ),
            r"parts.2.mix: shape of smooth: got \(32,\); expected \(64,\)",
        ),
        (
            lambda p: replace(
                p,
                activations=ActivationTable(
                    TIMESTEPS, {**p.activations.grids, CONV: p.activations.grids[MIX]}
                ),
            ),
            "parts.0.conv: activation shift: got 64 channels; expected 1 or 32",
        ),
    ],
)
def test_what_does_not_fit_is_named(toy, spoil, message):
    network = capture.sharing(toy.network())
    with pytest.raises(UserError, match=message):
        inject(network, spoil(parts_of(network)))


def test_groups_that_reach_into_the_next_kernel_pixel_are_refused(toy):
    network = capture.sharing(toy.network())
    parts = parts_of(network)
    codes = round_to_nearest(capture.matrix(network.parts[0].conv), Spec(4))[0]
    wide = QuantizedWeight(codes[:, :288], mx.ones((32, 9)), mx.zeros((32, 9)), Spec(4, True, 32))
    narrow = nn.Conv2d(16, 32, (3, 6))
    network.parts[0].conv = narrow  # 288 columns too
    with pytest.raises(UserError, match="parts.0.conv: in_features 16 is not divisible: got group size 32"):
        inject(network, replace(parts, weights={CONV: wide}))


def test_smoothing_that_no_layer_can_take_is_refused(tmp_path, toy):
    with pytest.raises(UserError, match="got smoothing factors that no adaptive layer norm can take"):
        write_folder(tmp_path, toy.network(), parts_of(toy.network(), smooth=True))
    assert not list(tmp_path.iterdir())


def test_a_module_without_an_anatomy_takes_that_of_the_named_model_or_asks_for_it(toy):
    class Stock(nn.Module):
        """The same layers at the same paths, and one more; no description of them."""

        def __init__(self):
            super().__init__()
            own = capture.sharing(toy.network())
            self.parts, self.other = own.parts, nn.Linear(32, 32)

    stock, parts = Stock(), parts_of(toy.network())
    inject(stock, parts)
    assert isinstance(stock.parts[0].conv, QuantizedConv2d)
    other = replace(parts, model="unheard of")
    with pytest.raises(UserError, match=r"Stock: anatomy: got none of its own, .*inject\(..., anatomy=\)"):
        inject(Stock(), other)
    stock = Stock()
    inject(stock, other, anatomy=ANATOMY)
    assert isinstance(stock.parts[0].conv, QuantizedConv2d)
