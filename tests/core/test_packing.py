"""Packed codes against MLX's own packing, dequantization and matrix product."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine, packing
from ditq.core.errors import UserError
from ditq.core.spec import Spec


def random_codes(spec: Spec, rows=5, columns=256):
    rng = np.random.default_rng(spec.bits)
    codes = rng.integers(spec.qmin, spec.qmax + 1, (rows, columns))
    codes[0, :2] = spec.qmin, spec.qmax
    groups = spec.groups(columns)
    scale = rng.uniform(0.01, 0.1, (rows, groups)).astype(np.float32)
    zero = (
        np.zeros_like(scale)
        if spec.symmetric
        else rng.integers(0, spec.qmax + 1, scale.shape).astype(np.float32)
    )
    return mx.array(codes.astype(np.int32)), mx.array(scale), mx.array(zero)


SPECS = [
    Spec(b, symmetric, g) for b in packing.BITS for symmetric in (True, False) for g in (None, 32, 64, 128)
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_codes_survive_and_mlx_reads_their_values(spec):
    codes, scale, zero = random_codes(spec)
    words, scales, biases = packing.pack(codes, scale, zero, spec)
    assert mx.array_equal(packing.unpack(words, spec), codes)
    group = packing.storage_group(spec, 256)
    values = mx.dequantize(words, scales, biases, group_size=group, bits=spec.bits)
    assert mx.abs(values - affine.dequantize(codes, scale, zero)).max().item() < 1e-5
    x = mx.array(np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32))
    product = mx.quantized_matmul(x, words, scales, biases, transpose=True, group_size=group, bits=spec.bits)
    assert mx.abs(product - x @ affine.dequantize(codes, scale, zero).T).max().item() < 1e-3


@pytest.mark.parametrize("bits", packing.BITS)
def test_words_equal_mlx_own(bits):
    w = mx.array(np.random.default_rng(1).standard_normal((4, 128)).astype(np.float32))
    words, scales, _ = mx.quantize(w, group_size=64, bits=bits)
    spec = Spec(bits, symmetric=False, group_size=64)
    codes = packing.unpack(words, spec)
    again, _, _ = packing.pack(codes, scales, mx.zeros_like(scales), spec)
    assert mx.array_equal(again, words)


def test_storage_that_mlx_lacks_is_explained():
    with pytest.raises(
        UserError, match=r"fc1: packed storage: got 7 bits; expected one of 2, 3, 4, 5, 6, 8 bits"
    ):
        packing.storage_group(Spec(7), 128, "fc1")
    with pytest.raises(UserError, match="got 100 columns; expected a multiple of 32"):
        packing.storage_group(Spec(4), 100)
    assert not packing.is_storable(Spec(7), 128) and not packing.is_storable(Spec(4), 36)
    assert packing.is_storable(Spec(4), 96) and not packing.is_storable(Spec(4, True, 64), 96)
    assert [packing.storage_group(Spec(4), columns) for columns in (96, 192, 384)] == [32, 64, 128]
