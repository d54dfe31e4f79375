"""A toy model with convolutions, a layer that runs once a prompt, and two layers that share an input."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.models import Conditioning, Defaults, Geometry, Network, RunInputs
from ditq.models.anatomy import Anatomy, Site

PARTS = {"conv": "convolution", "fc1": "mlp_in", "gate": "projection", "fc2": "mlp_out"}


@dataclass(frozen=True)
class ToyConfig:
    blocks: int = 2
    width: int = 8


class ToyBlock(nn.Module):
    reads = ("pixels", "text", "time")
    writes = ("pixels",)

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.fc1, self.gate = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def __call__(self, pixels, text, time):
        seen = self.conv(pixels) + (text.mean(axis=1) + time)[:, None, None]
        return pixels + self.fc2(nn.gelu(self.fc1(seen)) * self.gate(seen))


class ToyNetwork(Network):
    family, given_by, begun, results = "toy", ("tokens",), ("pixels",), ("pixels",)

    def __init__(self, config: ToyConfig = ToyConfig()):
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(4, config.width, 2, stride=2)
        self.text, self.time = nn.Linear(6, config.width), nn.Linear(1, config.width)
        self.parts = [ToyBlock(config.width) for _ in range(config.blocks)]
        self.head = nn.Linear(config.width, 4)

    @property
    def anatomy(self):
        sites = [
            Site("stem", "embedder", phase="begin", stream="pixels"),
            Site("text", "embedder", phase="prepare", rows="tokens"),
            Site("time", "embedder", phase="prepare", rows="steps"),
            Site("head", "head", phase="finish", stream="pixels"),
        ]
        for i in range(self.config.blocks):
            for stage, (part, role) in enumerate(PARTS.items()):
                shared = f"parts.{i}.fc1" if part == "gate" else ""
                path, label = f"parts.{i}.{part}", f"toy_{i}.{part}"
                sites.append(Site(path, role, shared, stage, f"parts.{i}", stream="pixels", label=label))  # pyright: ignore[reportArgumentType]
        return Anatomy("toy", tuple(f"parts.{i}" for i in range(self.config.blocks)), sites)

    @property
    def dtype(self):
        return mx.float32

    @property
    def blocks(self):
        return self.parts

    def prepare(self, conditioning, timesteps):
        time = self.time(timesteps[:, None] / 1000)[:, None]
        time = mx.broadcast_to(time, (len(timesteps), len(conditioning), time.shape[-1]))
        return RunInputs({"text": self.text(conditioning.tokens)}, {"time": time})

    def begin(self, latents, **inputs):
        return {"pixels": self.stem(latents), **inputs}

    def finish(self, state, height, width):
        return mx.repeat(mx.repeat(self.head(state["pixels"]), 2, axis=1), 2, axis=2)

    def step_flops(self, rows, height, width, text_tokens):
        return 1e3


class Toy:
    name = "toy"
    defaults = Defaults(size=8, steps=4, guidance=3.0, shift=1.0, schedule="uniform")
    geometry = Geometry(latent_channels=4, factor=1, unit=2, largest=16, text_tokens=5, text_dim=6)
    prediction, noise = "velocity", "rectified-flow"
    dtype = mx.float32

    def encode(self, prompts):
        rows = [np.random.default_rng(len(p)).standard_normal((5, 6)).astype(np.float32) for p in prompts]
        return Conditioning(mx.array(np.stack(rows)))

    def network(self):
        mx.random.seed(5)
        return ToyNetwork()

    skeleton = network

    def decode(self, latents):
        return np.array(mx.clip(latents[..., :3] * 40 + 128, 0, 255).astype(mx.uint8))
