"""A tiny network unlike an MMDiT: convolutions, a skip connection, a time embedding and text that blocks only read."""

from functools import cached_property

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.core.spec import Spec
from ditq.models.anatomy import Anatomy, Site
from ditq.models.base import Network
from ditq.models.state import run_block
from ditq.weights import BlockProblem, block_specs

CHANNELS, TEXT, WIDTH = 32, 16, 8


class Down(nn.Module):
    """Halves the picture, adds the embedded time, and keeps its input as a skip connection."""

    reads, writes = ("features", "time"), ("features", "skip")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.time = nn.Linear(CHANNELS, CHANNELS)

    def __call__(self, features, time):
        added = self.time(nn.silu(time))[:, None, None]
        return nn.silu(self.conv(features)) + added, features


class Up(nn.Module):
    """Looks at the text, doubles the picture, and joins the skip connection to it."""

    reads, writes = ("features", "skip", "words"), ("features",)

    def __init__(self):
        super().__init__()
        self.k, self.v = nn.Linear(TEXT, CHANNELS), nn.Linear(TEXT, CHANNELS)
        self.q = nn.Linear(CHANNELS, CHANNELS)
        self.conv = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)

    def __call__(self, features, skip, words):
        weights = mx.softmax(self.q(features).flatten(1, 2) @ self.k(words).swapaxes(1, 2) / 6, axis=-1)
        features = features + (weights @ self.v(words)).reshape(features.shape)
        large = mx.repeat(mx.repeat(features, 2, axis=1), 2, axis=2)
        return nn.silu(self.conv(mx.concatenate([large, skip], axis=-1)))


class Toy(Network):
    """Two blocks between two convolutions."""

    family, given_by, begun, results = "toy", ("tokens",), ("features",), ("features",)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.clock = nn.Linear(8, CHANNELS)
        self.down, self.up = Down(), Up()
        self.last = nn.Conv2d(CHANNELS, 4, 3, padding=1)

    @cached_property
    def anatomy(self):
        return Anatomy(
            "toy",
            ("down", "up"),
            [
                Site("first", "embedder", phase="begin"),
                Site("clock", "embedder", phase="prepare", rows="steps"),
                Site("down.conv", "convolution", block="down", stage=0),
                Site("down.time", "projection", block="down", stage=0),
                Site("up.q", "attention_in", block="up", stage=0),
                Site("up.k", "attention_in", "up.k", block="up", stage=0),
                Site("up.v", "attention_in", "up.k", block="up", stage=0),
                Site("up.conv", "convolution", block="up", stage=1),
                Site("last", "head", phase="finish"),
            ],
        )

    @property
    def dtype(self):
        return self.first.weight.dtype

    @property
    def blocks(self):
        return [self.down, self.up]

    def given(self, timesteps, tokens):
        angles = timesteps[:, None] * mx.array([1e-3 * 2**i for i in range(4)])
        return {
            "time": self.clock(mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)),
            "words": tokens,
        }

    def begin(self, latents, **inputs):
        return {"features": self.first(latents), **inputs}

    def finish(self, state, height, width):
        return self.last(state["features"])


def toy_network(seed: int = 0) -> Toy:
    """One with random weights."""
    mx.random.seed(seed)
    network = Toy()
    mx.eval(network.parameters())
    return network


def toy_problem(name: str, rows: int = 8, spec: Spec | None = None, seed: int = 0, **more) -> BlockProblem:
    """A block of it on random pictures; its quantized inputs are the float ones with a little noise."""
    network, rng = toy_network(), np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))

    timesteps = np.linspace(1000, 100, rows).astype(np.float32)
    given = network.given(mx.array(timesteps), normal(rows, 5, TEXT))
    states = [network.begin(normal(rows, WIDTH, WIDTH, 4), **given)]
    for block in network.blocks:
        states.append(run_block(block, states[-1]))
    number = network.anatomy.blocks.index(name)
    block, flow = network.blocks[number], network.flow
    inputs = {array: states[number][array] for array in block.reads}
    noisy = {array: x + normal(*x.shape, scale=0.02) for array, x in inputs.items()}
    targets = {array: states[number + 1][array] for array in flow.read_later(number)}
    specs = block_specs(block, name, network.anatomy, spec or Spec(4))
    own = {"quantized_inputs": noisy, "specs": specs, "carried": flow.inputs(number), **more}
    return BlockProblem(
        block=block, path=name, anatomy=network.anatomy, inputs=inputs, targets=targets,
        timesteps=timesteps, **own,
    )  # fmt: skip
