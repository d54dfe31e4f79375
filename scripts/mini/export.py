"""The trained networks as the one float16 file that the package ships."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from torch import nn

from ditq.core.artefact import write_safetensors
from ditq.models.keymaps import from_diffusers
from mini import data, nets
from mini.trained import load_flow, load_network


def export(folder: Path, target: Path) -> dict[str, float]:
    """Writes `target` and says its size and the parameters of its parts.

    Tensors are named `transformer.*` (parameter paths of `ditq.models.mmdit.MMDiT`), `text_encoder.*`,
    `decoder.*`, `classifier.*` and `code.{mean,matrix}`; convolutions are (out, rows, columns, in).
    The metadata hold JSON: the vocabulary under `words`, the classifier's names under `labels`.
    """
    model, text = load_flow(folder)
    parts = {
        "text_encoder": _flat(text),
        "decoder": _flat(load_network(nets.Decoder(), folder / "decoder.pt")),
        "classifier": _flat(load_network(nets.Classifier(len(data.OBJECTS), 13), folder / "classifier.pt")),
    }
    with np.load(folder / "code.npz", allow_pickle=False) as arrays:
        parts["code"] = {name: mx.array(arrays[name]) for name in ("mean", "matrix")}
    torch_names = {name: mx.array(value.numpy()) for name, value in model.state_dict().items()}
    parts["transformer"] = from_diffusers(torch_names)
    weights = {
        f"{part}.{name}": value.astype(mx.float16)
        for part, tensors in parts.items()
        for name, value in tensors.items()
    }
    words = {"known": data.vocabulary(), "aliases": data.ALIASES, "length": data.MAX_WORDS}
    labels = {"objects": list(data.OBJECTS), "backgrounds": [item.name for item in data.BACKGROUNDS]}
    write_safetensors(target, weights, {"words": json.dumps(words), "labels": json.dumps(labels)})
    sizes = {
        f"{part}_parameters": sum(value.size for value in tensors.values()) for part, tensors in parts.items()
    }
    return {"megabytes": target.stat().st_size / 1e6, **sizes}


def _flat(network: nn.Module) -> dict[str, mx.array]:
    """Parameters by name; convolutions as (out, rows, columns, in)."""
    return {
        name: mx.array(value.permute(0, 2, 3, 1).numpy() if value.ndim == 4 else value.numpy())
        for name, value in network.state_dict().items()
    }
