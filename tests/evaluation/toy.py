"""Small random models to draw with: one of the SD3 family, one of convolutions."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ditq import capture
from ditq.evaluation import EvalReport, Variant, evaluate, float_variant, size_of
from ditq.models import Conditioning, Defaults, Geometry
from ditq.models.anatomy import Anatomy, Site
from ditq.models.base import Network, RunInputs
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig
from ditq.sampling.generate import settings_for

PROMPTS, SEEDS = ["one", "two", "three"], [4, 5, 6]
LAYER = "multimodal_transformer_blocks.0.image_transformer_block.mlp.fc2"
CONFIG = MMDiTConfig(
    num_heads=2, depth_multimodal=2, hidden_size_override=64, vae_latent_dim=4, max_latent_resolution=8,
    pooled_text_embed_dim=16, token_level_text_embed_dim=8,
)  # fmt: skip


class Toy:
    """A random model whose prompts are embedded by their characters, and whose decoder shows three channels."""

    name = "toy"
    defaults = Defaults(size=32, steps=3, guidance=4.0, shift=3.0, schedule="uniform")
    geometry = Geometry(
        latent_channels=4, factor=4, unit=2, largest=16, text_tokens=5, text_dim=8, pooled_dim=16
    )
    prediction, noise = "velocity", "rectified-flow"
    dtype = mx.float32

    def __init__(self):
        mx.random.seed(0)
        self.encoded, self.kept = [], self.skeleton()
        self.kept.update(tree_map(lambda array: 2.5 * array, self.kept.parameters()))  # what is wrong shows
        mx.eval(self.kept.parameters())

    def encode(self, prompts):
        self.encoded.append(len(prompts))
        rows = [np.resize(np.frombuffer((p or " ").encode(), np.uint8) / 99.0, 5 * 8) for p in prompts]
        tokens = mx.array(np.stack(rows).astype(np.float32)).reshape(-1, 5, 8)
        return Conditioning(tokens, tokens[:, :2].flatten(1))

    def network(self):
        return self.kept

    def skeleton(self):
        return MMDiT(CONFIG)

    def decode(self, latents):
        pixels = mx.repeat(mx.repeat(latents[..., :3], 4, 1), 4, 2)
        return np.array(mx.clip(pixels * 40 + 128, 0, 255).astype(mx.uint8))


def shrunk(model, factor, opened=None):
    """A variant whose layer gives `factor` of what it should."""

    @contextmanager
    def opening(encoded):
        if opened is not None:
            opened.append(factor)
        layer = capture.layers(encoded.network())[LAYER]
        other = nn.Linear(*reversed(layer.weight.shape))
        other.weight, other.bias = factor * layer.weight, layer.bias
        with capture.swapped(encoded.network(), {LAYER: other}):
            yield encoded

    return Variant(f"times {factor}", opening, f"times {factor}", size_of(model))


def run(model, folder, variants=(), **kwargs) -> EvalReport:
    """The float model and these variants on three prompts, two pictures at once."""
    every = [float_variant(model), *variants]
    return evaluate(model, every, PROMPTS, SEEDS, settings_for(model), folder, batch_size=2, **kwargs)


class ConvBlock(nn.Module):
    """A kxk convolution and a linear layer of every pixel; writes what a later block skips to."""

    reads, writes = ("features",), ("features", "skip")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 3, padding=1)
        self.mix = nn.Linear(32, 32)

    def __call__(self, features):
        made = self.mix(nn.silu(self.conv(features)))
        return features + made, made


class SkipBlock(nn.Module):
    """A 1x1 convolution of the features beside what was skipped."""

    reads, writes = ("features", "skip"), ("features",)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 32, 1)

    def __call__(self, features, skip):
        return self.conv(mx.concatenate([features, skip], axis=-1))


@dataclass(frozen=True)
class ConvConfig:
    """Nothing to choose."""

    sides: tuple[int, ...] = field(default=(8, 8))


class ConvNet(Network):
    """Two blocks of convolutions."""

    family, given_by, begun, results = "convnet", (), ("features",), ("features",)

    def __init__(self):
        super().__init__()
        self.config = ConvConfig()
        self.enter = nn.Conv2d(4, 32, 1)
        self.parts = [ConvBlock(), SkipBlock()]
        self.leave = nn.Linear(32, 4)

    @property
    def anatomy(self):
        sites = [
            Site("enter", "embedder", phase="begin", quantizable=False),
            Site("parts.0.conv", "convolution", block="parts.0"),
            Site("parts.0.mix", "projection", stage=1, block="parts.0"),
            Site("parts.1.conv", "convolution", block="parts.1"),
            Site("leave", "head", phase="finish"),
        ]
        return Anatomy("convnet", ("parts.0", "parts.1"), sites, {})

    @property
    def dtype(self):
        return mx.float32

    @property
    def blocks(self):
        return self.parts

    def prepare(self, conditioning, timesteps):
        return RunInputs({"text": conditioning.tokens}, {"time": mx.repeat(timesteps[:, None], 1, 1)})

    def begin(self, latents, text, time):
        shift = text.mean(axis=(1, 2)) + time / 1000
        return {"features": self.enter(latents) + shift[:, None, None, None]}

    def finish(self, state, height, width):
        return self.leave(state["features"])


class ConvToy(Toy):
    """The same around convolutions."""

    name = "conv-toy"

    def skeleton(self):
        return ConvNet()
