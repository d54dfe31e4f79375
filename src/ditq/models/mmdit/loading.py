"""A checkpoint of the SD3 family into our transformer."""

from pathlib import Path

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.models.loading import load_weights_into, read_weights
from ditq.models.mmdit.config import MMDiTConfig
from ditq.models.mmdit.keymap import to_mmdit
from ditq.models.mmdit.model import MMDiT


def load_mmdit(path: str | Path, config: MMDiTConfig, dtype: mx.Dtype | None = None) -> MMDiT:
    """The transformer of a checkpoint in any known layout, in `dtype` or as stored.

    `path` is a safetensors file, the index of a sharded one, or a folder that holds either. Raises UserError when the
    layout is not known or a key is missing, extra, misshapen or not finite.
    """
    weights = to_mmdit(read_weights(path))
    if weights is None:
        raise UserError(
            str(path),
            got="keys of no known layout",
            expected="a diffusion transformer of the SD3 family (Stability, diffusers or DiffusionKit names)",
        )
    if dtype is not None:
        weights = {key: value.astype(dtype) for key, value in weights.items()}
    mmdit = MMDiT(config)
    load_weights_into(mmdit, weights, source=str(path))
    return mmdit
