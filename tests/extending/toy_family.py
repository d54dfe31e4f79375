"""A family in one file: a convolution, cross-attention and a skip connection, epsilon prediction, no pooled text."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ditq.models.anatomy import Anatomy, Site
from ditq.models.base import Conditioning, Defaults, Geometry, Network, RunInputs
from ditq.models.functional import attention, gelu_tanh, timestep_embedding

WIDTH = 32


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a Toy."""

    width: int = WIDTH


def _site(block: int, name: str, role: str, stage: int, **facts) -> Site:
    return Site(
        f"parts.{block}.{name}", role, stage=stage, block=f"parts.{block}", **{"stream": "pixels", **facts}
    )


ANATOMY = Anatomy(
    "toy",
    ("parts.0", "parts.1", "parts.2"),
    [
        Site("time_embedder", "embedder", phase="prepare", rows="steps"),
        Site("text_embedder", "embedder", phase="prepare", rows="prompt_tokens", stream="words"),
        Site("conv_in", "embedder", phase="begin", stream="pixels", quantizable=False),
        _site(0, "conv", "convolution", 0),
        _site(1, "q", "attention_in", 0),
        _site(1, "k", "attention_in", 0, stream="words"),
        _site(1, "v", "attention_in", 0, stream="words", input="parts.1.k"),
        _site(1, "o", "attention_out", 1),
        _site(1, "fc1", "mlp_in", 2),
        _site(1, "fc2", "mlp_out", 3, label="toy_01"),
        _site(2, "mix", "convolution", 0),
        Site("head", "head", phase="finish", stream="pixels"),
    ],
    {"pixels": "px", "words": "wd"},
)


class Down(nn.Module):
    """A 3x3 convolution that also hands its input to a much later block."""

    reads, writes = ("pixels", "time"), ("pixels", "skip")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def __call__(self, pixels, time):
        return pixels + nn.silu(self.conv(pixels)) + time[:, None, None], pixels


class Cross(nn.Module):
    """Attention of the pixels to the words, and an MLP."""

    reads, writes = ("pixels", "words"), ("pixels",)

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=name == "o") for name in "qkvo")
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def __call__(self, pixels, words):
        x = pixels.flatten(1, 2)
        pad = x.shape[1] - words.shape[1]
        k, v = (mx.pad(layer(words), [(0, 0), (0, pad), (0, 0)]) for layer in (self.k, self.v))
        x = x + self.o(attention(self.q(x), k, v, 2))
        return (x + self.fc2(gelu_tanh(self.fc1(x)))).reshape(pixels.shape)


class Up(nn.Module):
    """A 1x1 convolution of the pixels beside the skip connection."""

    reads, writes = ("pixels", "skip"), ("pixels",)

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2 * WIDTH, WIDTH, 1)

    def __call__(self, pixels, skip):
        return self.mix(mx.concatenate([pixels, skip], axis=-1))


class ToyNetwork(Network):
    """Predicts the noise of latents with four channels."""

    family = "toy"
    given_by = ("tokens",)
    begun = ("pixels",)
    results = ("pixels",)
    anatomy = ANATOMY  # pyright: ignore

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.time_embedder, self.text_embedder = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.conv_in, self.head = nn.Conv2d(4, WIDTH, 3, padding=1), nn.Linear(WIDTH, 4)
        self.parts = [Down(), Cross(), Up()]
        self.anchor = mx.zeros((1,))

    @property
    def dtype(self):
        return self.anchor.dtype

    @property
    def blocks(self):
        return self.parts

    def prepare(self, conditioning: Conditioning, timesteps) -> RunInputs:
        time = self.time_embedder(timestep_embedding(timesteps, WIDTH, 10000))[:, None]
        rows = mx.broadcast_to(time, (len(timesteps), len(conditioning), WIDTH))
        return RunInputs({"words": self.text_embedder(conditioning.tokens)}, {"time": rows})

    def given(self, timesteps, tokens):
        time = self.time_embedder(timestep_embedding(timesteps, WIDTH, 10000))
        return {"words": self.text_embedder(tokens), "time": time}

    def begin(self, latents, words, time):
        return {"pixels": self.conv_in(latents), "words": words, "time": time}

    def finish(self, state, height, width):
        return self.head(state["pixels"])

    def step_flops(self, rows, height, width, text_tokens):
        return rows * height * width * 2.0 * 15 * WIDTH**2


class Toy:
    """A random model whose prompts are embedded by their characters, and whose decoder shows three channels."""

    name = "toy"
    defaults = Defaults(size=32, steps=6, guidance=3.0, shift=1.0, schedule="trailing", sampler="ddim")
    geometry = Geometry(latent_channels=4, factor=4, unit=1, largest=16, text_tokens=5, text_dim=WIDTH)
    prediction = "epsilon"
    noise = "ddpm-linear"
    dtype = mx.float32

    def __init__(self, path=None, dtype=None, text_encoders="all"):
        self._network = None

    def encode(self, prompts):
        letters = [
            np.resize(np.frombuffer((p or " ").encode(), np.uint8) / 60.0 - 1, 5 * WIDTH) for p in prompts
        ]
        return Conditioning(mx.array(np.stack(letters).astype(np.float32)).reshape(-1, 5, WIDTH))

    def network(self):
        if self._network is None:
            self._network = ToyNetwork(ToyConfig())
            rng = np.random.default_rng(3)
            shapes = {name: array.shape for name, array in tree_flatten(self._network.parameters())}
            weights = [
                (name, mx.array((rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32)))
                for name, s in sorted(shapes.items())
            ]
            self._network.load_weights(weights)
            mx.eval(self._network.parameters())
        return self._network

    def skeleton(self):
        return ToyNetwork(ToyConfig())

    def decode(self, latents):
        pixels = mx.repeat(mx.repeat(latents[..., :3], 4, 1), 4, 2)
        return np.array(mx.clip(pixels * 40 + 128, 0, 255).astype(mx.uint8))
