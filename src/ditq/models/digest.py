"""Which weights a network has, as a short text: what plans, caches and pictures name the model by."""

import hashlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

SAMPLED = 4096
"""Values of each tensor that are read; a tensor with no more is read whole."""
_GOLDEN = 0x9E3779B97F4A7C15
_BYTES = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


def weights_digest(network: nn.Module) -> str:
    """16 hexadecimal digits of the parameters' names, shapes, dtypes and values.

    Small tensors count whole; of larger ones SAMPLED values do, at places that are spread evenly and the same on every
    machine. Values are compared bit by bit. It takes milliseconds for a network of any size, and is computed anew at
    each call, so that a layer replaced or written to in place is never missed.
    """
    parameters: list[tuple[str, mx.array]] = sorted(tree_flatten(network.parameters()))  # pyright: ignore
    samples = [_sample(array) for _, array in parameters]
    mx.eval(samples)
    sha = hashlib.sha256()
    for (name, array), sample in zip(parameters, samples, strict=True):
        sha.update(f"{name} {tuple(array.shape)} {array.dtype}\n".encode())
        sha.update(np.array(sample).tobytes())
    return sha.hexdigest()[:16]


def _sample(array: mx.array) -> mx.array:
    """Values of a tensor as unsigned integers of the same bits; nothing is evaluated."""
    flat = array.reshape(-1)
    if flat.size > SAMPLED:
        flat = flat[mx.array(_places(flat.size))]
    return flat.astype(mx.uint8) if array.dtype == mx.bool_ else flat.view(_BYTES[array.dtype.size])


def _places(size: int) -> np.ndarray:
    """SAMPLED places below `size`: multiples of the golden ratio modulo one, which meet no column more than others."""
    turns = np.arange(1, SAMPLED + 1, dtype=np.uint64) * np.uint64(_GOLDEN)  # modulo 2^64
    return ((turns >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)).astype(np.int64)
