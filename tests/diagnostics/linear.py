"""A model whose prediction is FACTOR times its input, by two layers that undo each other's rotation."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.models.anatomy import Anatomy, Site
from tests.diagnostics.toy import Toy, ToyConfig, ToyNetwork

FACTOR = 0.75


def rotation() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(4).standard_normal((4, 4)))[0].astype(np.float32)


class LinearBlock(nn.Module):
    reads, writes = ("pixels",), ("pixels",)

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.one.weight, self.two.weight = mx.array(rotation()), mx.array(FACTOR * rotation().T)

    def __call__(self, pixels):
        return self.two(self.one(pixels))


class LinearNetwork(ToyNetwork):
    def __init__(self):
        super().__init__(replace(ToyConfig(), blocks=0))
        self.parts = [LinearBlock()]

    @property
    def anatomy(self):
        outer = [site for site in super().anatomy.layers if site.phase != "block"]
        own = [
            Site(f"parts.0.{name}", "projection", "", i, "parts.0") for i, name in enumerate(("one", "two"))
        ]
        return Anatomy("linear", ("parts.0",), [*outer, *own])

    def begin(self, latents, **inputs):
        return {"pixels": latents, **inputs}

    def finish(self, state, height, width):
        return state["pixels"]


class Linear(Toy):
    name = "linear"

    def network(self):
        return LinearNetwork()

    skeleton = network
