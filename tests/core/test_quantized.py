"""A weight on its grid gives its values back, and refuses parts that do not belong to it."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.affine import round_to_nearest
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec


def rounded(spec: Spec, smooth: mx.array | None = None) -> QuantizedWeight:
    w = mx.array(np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32))
    return QuantizedWeight(*round_to_nearest(w, spec), spec, smooth)


@pytest.mark.parametrize("spec", [Spec(4), Spec(3, group_size=32), Spec(8, symmetric=False, group_size=64)])
def test_values_are_scale_times_code_less_zero(spec):
    weight = rounded(spec)
    codes, scale, zero = (np.array(x, np.float64) for x in (weight.codes, weight.scale, weight.zero))
    size = 64 // scale.shape[1]
    expected = (codes - zero.repeat(size, 1)) * scale.repeat(size, 1)
    np.testing.assert_allclose(np.array(weight.values()), expected, rtol=1e-6)
    assert weight.effective() is not None and mx.array_equal(weight.effective(), weight.values())


def test_the_effective_weight_undoes_the_smoothing():
    smooth = mx.array(np.linspace(0.5, 4, 64).astype(np.float32))
    weight = rounded(Spec(4), smooth)
    x = mx.random.normal((3, 64), key=mx.random.key(1))
    smoothed = (x / smooth) @ weight.values().T
    assert mx.allclose(x @ weight.effective().T, smoothed, atol=1e-5)


def test_the_effective_convolution_undoes_the_smoothing_of_its_input_channels():
    """Channel j of kernel pixel i stands in column 16 i + j."""
    smooth = np.linspace(0.5, 4, 16).astype(np.float32)
    weight = rounded(Spec(4), mx.array(smooth))
    expected = np.array(weight.values()) / np.tile(smooth, 4)
    assert np.array_equal(np.array(weight.effective()), expected)
    weight.check("conv", channels=16)
    with pytest.raises(UserError, match=r"conv: shape of smooth: got \(16,\); expected \(32,\)"):
        weight.check("conv", channels=32)
    with pytest.raises(UserError, match=r"layer: shape of smooth: got \(7,\); expected \(64,\)"):
        replace(weight, smooth=mx.ones((7,))).check("layer")


def test_groups_of_a_convolution_divide_its_input_channels():
    assert Spec(4, True, 32).groups(9 * 64, "conv", channels=64) == 18
    with pytest.raises(
        UserError, match="conv: in_features 48 is not divisible: got group size 32; quantize it per channel"
    ):
        Spec(4, True, 32).groups(2 * 48, "conv", channels=48)  # 96 columns would do
    weight = rounded(Spec(4, True, 32))
    weight.check("layer")
    with pytest.raises(UserError, match="conv: in_features 16 is not divisible"):
        weight.check("conv", channels=16)


@pytest.mark.parametrize(
    ("spec", "bits"), [(Spec(4), 4 + 32 / 64), (Spec(4, False, 32), 4 + 32 / 32), (Spec(7), 8 + 32 / 64)]
)
def test_bits_per_weight_count_scales_and_biases_as_they_are_stored(spec, bits):
    weight = rounded(spec)
    assert weight.is_half and weight.bits_per_weight == bits


def test_scales_that_float16_would_move_take_32_bits():
    weight = rounded(Spec(4))
    other = replace(weight, scale=weight.scale * 1.001)
    assert not other.is_half and other.bits_per_weight == 4 + 64 / 64


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        (
            "codes",
            mx.full((6, 64), 8, mx.int32),
            "layer: codes: got from 8 to 8; expected from -8 to 7 at 4 bits",
        ),
        ("scale", mx.full((6, 1), float("nan")), "layer: scale: got values that are not finite"),
    ],
)
def test_check_names_layer_and_part(part, value, says):
    with pytest.raises(UserError, match=says):
        replace(rounded(Spec(4)), **{part: value}).check("layer")


def test_check_names_a_scale_of_other_groups():
    weight = rounded(Spec(4))
    wrong = QuantizedWeight(weight.codes, mx.ones((6, 2)), mx.zeros((6, 2)), weight.spec)
    with pytest.raises(UserError, match=r"layer: shape of scale: got \(6, 2\); expected \(6, 1\)"):
        wrong.check("layer")
