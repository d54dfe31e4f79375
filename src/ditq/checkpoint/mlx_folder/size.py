"""What a checkpoint folder takes on disk, told before anything is quantized or written."""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.mlx_folder.description import description
from ditq.checkpoint.mlx_folder.shards import SINGLE
from ditq.checkpoint.mlx_folder.stored import Layout, shapes, table_arrays
from ditq.checkpoint.origin import Origin
from ditq.core.files import npz_bytes
from ditq.models import Network

Shapes = dict[str, tuple[tuple[int, ...], mx.Dtype]]
_NAMES = {mx.uint32: "U32", mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}
_DIGEST = "0" * 64


def folder_bytes(
    network: Network,
    checkpoint: QuantizedCheckpoint,
    layouts: Mapping[str, Layout],
    dtype: mx.Dtype = mx.float16,
) -> int:
    """Bytes of the files that `write_folder` writes of a float network with layers of these layouts.

    Nothing is evaluated: the network may be a skeleton. Of the checkpoint, the model's name, the activation grids and
    the facts are asked, and of its weights which have smoothing factors. Cut into shards, the weights take a few
    kilobytes more.
    """
    table = None if checkpoint.activations is None else table_arrays(checkpoint.activations)
    factors = {
        path: weight.smooth for path, weight in checkpoint.weights.items() if weight.smooth is not None
    }
    smooth = {path: np.zeros(array.shape, np.float32) for path, array in factors.items()}
    origin = Origin(_DIGEST, str(network.dtype).rpartition(".")[2])
    config = description(network, checkpoint, layouts, list(smooth), origin)
    companions = [content for content in (table, smooth) if content]
    config["files"] = {f"{SINGLE}{number}": _DIGEST for number in range(1 + len(companions))}
    text = json.dumps(config, indent=2, ensure_ascii=False)
    return weights_bytes(network, layouts, dtype) + sum(map(npz_bytes, companions)) + len(text.encode())


def weights_bytes(network: Network, layouts: Mapping[str, Layout], dtype: mx.Dtype = mx.float16) -> int:
    """Bytes of model.safetensors alone."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    place = 0
    for name, (shape, stored) in _stored_shapes(network, layouts, dtype).items():
        end = place + prod(shape) * stored.size
        header[name] = {"dtype": _NAMES[stored], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    return 8 + len(json.dumps(header, separators=(",", ":"))) + place


def _stored_shapes(network: Network, layouts: Mapping[str, Layout], dtype: mx.Dtype) -> Shapes:
    """Shape and dtype of each array of model.safetensors."""
    arrays: Shapes = {}
    parameters: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    for name, array in parameters.items():
        path = name.removesuffix(".weight")
        if path in layouts and name != path:
            columns = prod(array.shape[1:])
            for part, told in shapes(layouts[path], array.shape[0], columns).items():
                arrays[f"{path}.{part}"] = told
        else:
            arrays[name] = (array.shape, dtype)
    return arrays
