"""Sampling for the training script: plain Euler steps with classifier-free guidance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mini import nets, words


def sigmas(steps: int, shift: float = 1.0) -> np.ndarray:
    """steps + 1 noise levels from 1 to 0; `shift` > 1 spends more of them on high noise."""
    linear = np.linspace(1, 0, steps + 1)
    return shift * linear / (1 + (shift - 1) * linear)


@torch.no_grad()
def sample(
    model: nn.Module,
    text: nn.Module,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 28,
    guidance: float = 3.0,
    shift: float = 1.0,
) -> np.ndarray:
    """Latents float32 [prompts, 16, 16, channels], one seed each (as `ditq` draws its noise); negative: ''."""
    device = next(model.parameters()).device
    index = {word: number for number, word in enumerate(words.vocabulary())}
    ids = torch.from_numpy(words.tokenize([*prompts, *[""] * len(prompts)], index)).to(device)
    tokens, pooled = text(ids)
    shape = (nets.GRID, nets.GRID, nets.CHANNELS)
    noise = [np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds]
    x = nets.as_torch(np.stack(noise)).to(device)
    levels = sigmas(steps, shift)
    for now, after in itertools.pairwise(levels):
        velocity = _velocity(model, x, tokens, pooled, float(now), guidance)
        x = x + float(after - now) * velocity
    return x.permute(0, 2, 3, 1).cpu().numpy()


def _velocity(model, x: Tensor, tokens: Tensor, pooled: Tensor, sigma: float, guidance: float) -> Tensor:
    time = torch.full((2 * len(x),), 1000 * sigma, device=x.device)
    both = model(
        hidden_states=torch.cat([x, x]), encoder_hidden_states=tokens, pooled_projections=pooled,
        timestep=time, return_dict=False,
    )[0]  # fmt: skip
    wanted, empty = both.chunk(2)
    return empty + guidance * (wanted - empty)


def grid(pictures: np.ndarray, columns: int) -> Image.Image:
    """One picture of many, uint8 [count, 128, 128, 3], row by row."""
    count, size = len(pictures), pictures.shape[1]
    rows = -(-count // columns)
    padded = np.concatenate([pictures, np.zeros((rows * columns - count, size, size, 3), np.uint8)])
    tiled = padded.reshape(rows, columns, size, size, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(tiled.reshape(rows * size, columns * size, 3))


def decode(decoder: nets.Decoder, latents: np.ndarray) -> np.ndarray:
    """uint8 pictures of NHWC latents by the convolutional decoder."""
    with torch.no_grad():
        device = next(decoder.parameters()).device
        pictures = decoder(nets.as_torch(latents).to(device)).permute(0, 2, 3, 1).cpu().numpy()
    return nets.to_uint8(pictures)
