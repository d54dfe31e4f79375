"""A small model, and calibration points for it."""

from pathlib import Path

import numpy as np

from ditq.calibration import PointRecipe, PointSet, collect_points
from ditq.diagnostics import ActivationStatistics, ChannelStatistics
from tests.sampling.test_generate import Small

PROMPTS = ["one", "two", "three"]


def points_of(folder: Path, cfg_scale: float = 1.5, trajectories: int = 5, steps: int = 6) -> PointSet:
    """15 points at 3 timesteps under 3 prompts, unless told otherwise."""
    recipe = PointRecipe(trajectories, steps, min(3, steps), cfg_scale, latent_size=8, seed=11, batch_size=8)
    return collect_points(Small(), PROMPTS, recipe, folder / "points.npz")


def path_of(block: int, stream: str = "image") -> str:
    return f"multimodal_transformer_blocks.{block}.{stream}_transformer_block.mlp.fc2"


def named(path: str) -> dict[str, str]:
    """What a file calls the layer of `path_of`."""
    block, stream = path.split(".")[1], path.split(".")[2].removesuffix("_transformer_block")
    return {"label": f"mm_{int(block):02d}_{ {'image': 'img', 'text': 'txt'}[stream] }", "stream": stream}


def invented(
    layers: int = 3, timesteps: int = 4, channels: int = 12, tokens: int = 50, scale: float = 1.0
) -> ActivationStatistics:
    """Statistics of invented post-GELU-like values: one-sided, louder towards timestep 0, channel 3 wide."""
    rng = np.random.default_rng(0)
    paths = [path_of(i // 2, ("image", "text")[i % 2]) for i in range(layers)]
    ends = (np.full(channels, -0.1), np.full(channels, 0.1))
    found = ActivationStatistics(
        {path: {} for path in paths}, dict.fromkeys(paths, ends), np.arange(timesteps)
    )
    found.meta = {"model": "invented", "layers": paths, "sites": {path: named(path) for path in paths}}
    for path in paths:
        for step, t in enumerate(np.linspace(1000, 10, timesteps).astype(np.float32)):
            x = np.maximum(rng.standard_normal((tokens, channels)), -0.17) * scale * 2.0**step
            x[:, min(3, channels - 1)] *= 20
            found.add(path, float(t), ChannelStatistics.of(x.astype(np.float32)))
    return found
