"""The trained networks as the one float16 file that the package ships."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from torch import nn

from ditq.core.files import write_safetensors
from ditq.models.mini import Mini
from ditq.models.mmdit.keymap import from_diffusers
from ditq.sampling.generate import generate, settings_for
from ditq.sampling.guidance import Denoiser
from ditq.sampling.steppers import noise
from mini import data, nets, pictures, sample, words
from mini.gate import held_out_pictures
from mini.trained import load_flow, load_network


def export(folder: Path, target: Path) -> dict[str, float]:
    """Writes `target` and says its size and the parameters of its parts.

    Tensors are named `transformer.*` (parameter paths of `ditq.models.mmdit.MMDiT`), `text_encoder.*`,
    `decoder.*` and `classifier.*`; convolutions are (out, rows, columns, in).
    The metadata hold JSON: the vocabulary under `words`, the classifier's names under `labels`.
    """
    model, text = load_flow(folder)
    parts = {
        "text_encoder": _flat(text),
        "decoder": _flat(load_network(nets.Decoder(), folder / "decoder.pt")),
        "classifier": _flat(load_network(pictures.judge_network(), folder / "classifier.pt")),
    }
    torch_names = {name: mx.array(value.numpy()) for name, value in model.state_dict().items()}
    parts["transformer"] = from_diffusers(torch_names)
    weights = {
        f"{part}.{name}": value.astype(mx.float16)
        for part, tensors in parts.items()
        for name, value in tensors.items()
    }
    vocabulary = {"known": words.vocabulary(), "aliases": words.ALIASES, "length": words.MAX_WORDS}
    labels = {
        "objects": list(words.OBJECTS), "backgrounds": [item.name for item in data.BACKGROUNDS],
        "colours": words.COLOURS, "positions": words.POSITIONS,
    }  # fmt: skip
    write_safetensors(target, weights, {"words": json.dumps(vocabulary), "labels": json.dumps(labels)})
    sizes = {
        f"{part}_parameters": sum(value.size for value in tensors.values()) for part, tensors in parts.items()
    }
    return {"megabytes": target.stat().st_size / 1e6, **sizes}


def parity(folder: Path, target: Path, count: int = 16, steps: int = 28) -> dict[str, float]:
    """How far the exported model, run by ditq in float32, is from the trained one in PyTorch.

    `velocity_error`: largest difference of the guided velocity in the first step, over its largest value;
    `picture_psnr`: dB over `count` whole pictures of held-out prompts.
    """
    model = Mini(target)
    prompts = [words.caption(item) for item in held_out_pictures(count)]
    settings = settings_for(model, steps=steps)
    ours = np.stack(list(generate(model, prompts, range(count), settings, batch_size=count)))
    flow = load_flow(folder)
    decoder = load_network(nets.Decoder(), folder / "decoder.pt")
    options = {"steps": settings.steps, "guidance": settings.guidance, "shift": settings.shift}
    theirs = sample.decode(decoder, sample.sample(*flow, prompts, range(count), **options))

    first = settings.sigmas[:2]
    conditioning = model.encode([*prompts, ""])
    denoise = Denoiser(model.network()).run(conditioning[:-1], conditioning[-1:], first, settings.guidance)
    x = noise(range(count), nets.GRID, nets.GRID, nets.CHANNELS)
    got = np.array(denoise(x, 0))
    # one Euler step from 1 to 0 gives noise minus velocity
    wanted = np.array(x) - sample.sample(*flow, prompts, range(count), 1, settings.guidance)
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    return {"velocity_error": float(error), "picture_psnr": pictures.psnr(ours, theirs)}


def _flat(network: nn.Module) -> dict[str, mx.array]:
    """Parameters by name; convolutions as (out, rows, columns, in)."""
    return {
        name: mx.array(value.permute(0, 2, 3, 1).numpy() if value.ndim == 4 else value.numpy())
        for name, value in network.state_dict().items()
    }
