"""Runs a model on calibration points and keeps statistics of what its layers receive at each timestep."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Int64

from ditq.calibration import PointSet
from ditq.capture import linears
from ditq.core import plan
from ditq.core.errors import DitqError, UserError
from ditq.core.files import remove
from ditq.diagnostics.channels import ChannelStatistics
from ditq.diagnostics.names import INPUTS, observed_paths
from ditq.diagnostics.statistics import ActivationStatistics, read_statistics, write_statistics
from ditq.diagnostics.tracing import traced
from ditq.models.base import TextToImage
from ditq.models.mmdit import MMDiT

CHECKPOINT_SECONDS = 60.0
"""What a kill may lose: the state is too large (350 MB for SD3 Medium) to be written after every batch."""

Indices = Int64[np.ndarray, "points"]


@dataclass(frozen=True)
class ProfileRecipe:
    """Which points are run, and which inputs are observed."""

    num_samples: int = 512
    seed: int = 0
    batch_size: int = 4
    """Points at once, all of one prompt; guidance doubles them."""
    inputs: str = "postgelu"
    shard: tuple[int, int] = (0, 1)
    """(k, n): of the run's batches every n-th, from the k-th on."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}", got=getattr(self, name), expected="at least 1")
        if self.inputs not in INPUTS:
            raise UserError("--inputs", got=self.inputs, expected=" or ".join(INPUTS))
        if not 0 <= self.shard[0] < self.shard[1]:
            raise UserError("--shard", got=f"{self.shard[0]}/{self.shard[1]}", expected="K/N with 0 <= K < N")

    def batches(self, points: PointSet) -> list[Indices]:
        """The sampled rows of `points`, drawn without replacement, in batches of one prompt each.

        All of them, when there are fewer than wanted.
        """
        wanted = min(self.num_samples, len(points))
        drawn = np.sort(np.random.default_rng(self.seed).choice(len(points), wanted, replace=False))
        batches = []
        for prompt in np.unique(points.prompt_indices[drawn]):
            own = drawn[points.prompt_indices[drawn] == prompt]
            own = own[np.argsort(-points.ts[own], kind="stable")]
            batches += [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]
        return batches[self.shard[0] :: self.shard[1]]


def profile(
    model: TextToImage,
    points: PointSet,
    recipe: ProfileRecipe,
    output: Path,
    resume: bool = False,
    on_points: Callable[[int], None] = lambda count: None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> ActivationStatistics:
    """The statistics of `recipe`, also written to `output`.

    Every `checkpoint_seconds` they are kept in `<output>.parts`, which is removed at the end: an interrupted run
    resumes there, and its result is bit for bit that of an unbroken one. Raises UserError when the points do not fit
    the model or the parts were made with other settings, DitqError when an activation is not finite.
    """
    _check_fit(model, points)
    batches = recipe.batches(points)
    parts = parts_of(output)
    mmdit = model.transformer()
    meta = {"model": model.name, "calibration": points_digest(points), **asdict(recipe)}
    meta |= {"shard": list(recipe.shard), "dtype": str(mmdit.dtype), "guidance": points.cfg_scale}
    meta["layers"] = observed_paths(mmdit, recipe.inputs)
    plan.begin(parts / "plan.json", meta, resume)
    state = parts / "state.npz"
    statistics = read_statistics(state) if state.exists() else _nothing_yet(mmdit, meta)
    done = len(statistics.points)
    on_points(done)
    saved = time.monotonic()
    for batch in batches:
        if done > 0:  # a finished batch of the earlier run
            done -= len(batch)
            continue
        observe_batch(mmdit, points, batch, statistics)
        on_points(len(batch))
        if time.monotonic() - saved >= checkpoint_seconds:
            write_statistics(state, statistics)
            saved = time.monotonic()
    write_statistics(output, statistics)
    remove(parts)
    return statistics


def observe_batch(mmdit: MMDiT, points: PointSet, batch: Indices, statistics: ActivationStatistics) -> None:
    """Runs points of one prompt, each at its own timestep, and adds what the layers received to `statistics`.

    With guidance every point runs twice, with its prompt and with the negative one, as when pictures are drawn.
    """
    ts = points.ts[batch]

    def observe(path: str, x: mx.array) -> None:
        values = np.array(x.astype(mx.float32))
        if path.startswith(
            "y_embedder."
        ):  # the pooled text, once for the batch: every point is modulated by it
            values = np.broadcast_to(values, (len(ts), *values.shape))
        for timestep, part in _by_timestep(path, values, ts):
            statistics.add(path, timestep, part)

    with traced(mmdit, list(statistics.layers), observe):
        mx.eval(forward(mmdit, points, batch))
    statistics.points = np.concatenate([statistics.points, batch])


def forward(mmdit: MMDiT, points: PointSet, batch: Indices) -> mx.array:
    """The velocities of points of one prompt: rows [prompt, negative] or, without guidance, the prompt alone."""
    rows = 2 if points.cfg_scale > 1 else 1
    conditioning = points.conditioning(int(points.prompt_indices[batch[0]]))[:rows]
    x = mx.array(points.xs[batch]).astype(mmdit.dtype)
    modulation = mmdit.modulation(conditioning.pooled, mx.array(points.ts[batch]))
    tokens = mx.repeat(conditioning.tokens.astype(mmdit.dtype), len(batch), axis=0)
    return mmdit(mx.concatenate([x] * rows), tokens, modulation.swapaxes(0, 1).flatten(0, 1))


def _by_timestep(
    path: str, values: Float32[np.ndarray, "rows *tokens channels"], ts: Float32[np.ndarray, "points"]
) -> Iterator[tuple[float, ChannelStatistics]]:
    """The statistics of the rows of each timestep; the rows are the points, once or once per guidance row."""
    of_row = np.tile(ts, len(values) // len(ts))
    for timestep in np.unique(ts):
        own = values[of_row == timestep].reshape(-1, values.shape[-1])
        try:
            yield float(timestep), ChannelStatistics.of(own)
        except DitqError as error:
            remedy = "the model's dtype overflowed; use bfloat16 or float32"
            raise DitqError(f"{path} at timestep {timestep}: {error}; {remedy}") from error


def _nothing_yet(mmdit: MMDiT, meta: dict[str, Any]) -> ActivationStatistics:
    layers = linears(mmdit)
    weights = {}
    for path in meta["layers"]:
        weight = layers[path].weight.astype(mx.float32)
        weights[path] = np.array(weight.min(axis=0), np.float64), np.array(weight.max(axis=0), np.float64)
    return ActivationStatistics({path: {} for path in weights}, weights, np.zeros(0, np.int64), meta)


def points_digest(points: PointSet) -> str:
    """What stands for the calibration points in plans and meta data."""
    arrays = (points.xs, points.ts, points.prompt_indices, points.cs, points.cs_pooled)
    return plan.digest(*(np.ascontiguousarray(array).tobytes() for array in arrays))


def parts_of(output: Path) -> Path:
    """The folder beside `output` where an unfinished run keeps its state."""
    return output.with_name(f"{output.name}.parts")


def _check_fit(model: TextToImage, points: PointSet) -> None:
    config = model.config
    for name, found, wanted in (
        ("latent channels", points.xs.shape[-1], config.vae_latent_dim),
        ("text features", points.cs.shape[-1], config.token_level_text_embed_dim),
        ("pooled features", points.cs_pooled.shape[-1], config.pooled_text_embed_dim),
    ):
        if found != wanted:
            raise UserError(
                f"calibration points: {name}", got=found, expected=f"{wanted} as {model.name} has"
            )
    if len(points) == 0:
        raise UserError("calibration points", got="none", expected="at least 1")
