"""Runs a model on calibration points and keeps statistics of what its layers receive at each timestep."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Int64

from ditq import capture
from ditq.calibration import PointSet
from ditq.capture import traced
from ditq.core import plan
from ditq.core.cost import Cost
from ditq.core.errors import DitqError, UserError
from ditq.core.files import remove
from ditq.diagnostics.channels import ChannelStatistics
from ditq.diagnostics.histogram import BINS, wide_edges
from ditq.diagnostics.layer_names import names_by
from ditq.diagnostics.selection import check_selection
from ditq.diagnostics.statistics import ActivationStatistics, read_statistics, write_statistics
from ditq.models.anatomy import Site
from ditq.models.base import Network, TextToImage
from ditq.models.cost import layer_inputs
from ditq.models.digest import weights_digest

"""Which inputs can be observed: those behind an activation function, or those of all quantizable layers."""
PER_CHANNEL = 6
"""Arrays of the file with one float64 per channel."""
CHECKPOINT_SECONDS = 60.0
"""What a kill may lose: the state is too large (350 MB for SD3 Medium) to be written after every batch."""

Indices = Int64[np.ndarray, "points"]
OBSERVED = 40
"""Tallied values that an observed value's moments and histograms take as long as."""


@dataclass(frozen=True)
class ProfileRecipe:
    """Which points are run, and which layers' inputs are observed."""

    num_samples: int = 512
    seed: int = 0
    batch_size: int = 4
    """Points at once, all of one prompt; guidance doubles them."""
    inputs: str = "postgelu"
    shard: tuple[int, int] = (0, 1)
    """(k, n): of the run's batches every n-th, from the k-th on."""

    def __post_init__(self) -> None:
        names = ("num_samples", "batch_size")
        check_selection({name: getattr(self, name) for name in names}, self.inputs, self.shard)

    def batches(self, points: PointSet) -> list[Indices]:
        """The rows of `points` that are run, in batches of one prompt each.

        They are drawn without replacement; all are run when there are fewer than wanted.
        """
        wanted = min(self.num_samples, len(points))
        drawn = np.sort(np.random.default_rng(self.seed).choice(len(points), wanted, replace=False))
        batches = []
        for prompt in np.unique(points.prompt_indices[drawn]):
            own = drawn[points.prompt_indices[drawn] == prompt]
            own = own[np.argsort(-points.ts[own], kind="stable")]
            batches += [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]
        return batches[self.shard[0] :: self.shard[1]]


def observed_paths(network: Network, inputs: str) -> list[str]:
    """The layers whose inputs are observed, by path: "postgelu" or "all".

    Raises DitqError for a layer that the network's anatomy does not know.
    """
    anatomy = network.anatomy
    return [path for path in anatomy.modules(network) if inputs == "all" or anatomy.site(path).post_gelu]


def profile(
    model: TextToImage,
    points: PointSet,
    recipe: ProfileRecipe,
    output: Path,
    resume: bool = False,
    on_points: Callable[[int], None] = lambda count: None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> ActivationStatistics:
    """The statistics that `recipe` asks for, also written to `output`.

    Every `checkpoint_seconds` they are saved in `<output>.parts`, which is removed at the end: an interrupted run
    resumes there, and its result is bit for bit that of an uninterrupted one; a finished run has nothing left
    to do. Raises UserError when the points do not fit the model or the parts were made with other settings, DitqError
    when an activation is not finite.
    """
    _check_fit(model, points)
    batches = recipe.batches(points)
    parts = parts_of(output)
    network = model.network()
    meta = {"model": model.name, "calibration": points_digest(points), **asdict(recipe)}
    meta |= {"shard": list(recipe.shard), "dtype": str(network.dtype), "guidance": points.cfg_scale}
    meta["layers"] = observed_paths(network, recipe.inputs)
    names = names_by(network.anatomy, meta["layers"])
    meta["sites"] = {path: name._asdict() for path, name in names.items()}
    if resume and output.exists():
        finished = read_statistics(output)
        plan.check(f"cannot resume {output}", meta, finished.meta)
        return finished
    state, new = parts / "state.npz", not (parts / "plan.json").exists()
    plan.begin(parts / "plan.json", {**meta, plan.WEIGHTS: weights_digest(network)}, resume, threads=True)
    statistics = None if new else _begun(state, batches)
    statistics = _nothing_yet(network, meta) if statistics is None else statistics
    done = len(statistics.points)
    on_points(done)
    saved = time.monotonic()
    for batch in batches:
        if done > 0:  # a finished batch of the earlier run
            done -= len(batch)
            continue
        observe_batch(network, points, batch, statistics)
        on_points(len(batch))
        if time.monotonic() - saved >= checkpoint_seconds:
            write_statistics(state, statistics)
            saved = time.monotonic()
    write_statistics(output, statistics)
    remove(parts)
    return statistics


def _begun(state: Path, batches: Sequence[np.ndarray]) -> ActivationStatistics | None:
    """The state of an interrupted run; None where there is none, or none that can be read or ends with a batch."""
    try:
        found = read_statistics(state)
    except UserError:
        return None
    whole = np.concatenate([np.zeros(0, np.int64), *batches])
    ends = np.cumsum([0, *map(len, batches)])
    done = len(found.points)
    return found if done in ends and np.array_equal(found.points, whole[:done]) else None


def profile_forecast(model: TextToImage, points: PointSet, recipe: ProfileRecipe) -> tuple[str, Cost]:
    """Layers, timesteps and points as one line, and what the run takes; nothing is loaded."""
    network = model.skeleton()
    paths, layers = observed_paths(network, recipe.inputs), network.anatomy.modules(network)
    rows = np.concatenate(recipe.batches(points))
    steps = len(np.unique(points.ts[rows]))
    channels = sum(capture.channels(layers[path]) for path in paths)
    size = 8 * steps * (PER_CHANNEL * channels + len(paths) * (BINS + len(wide_edges())))
    shapes = layer_inputs(network, model.geometry, *points.xs.shape[1:3])
    passes = len(rows) * (2 if points.cfg_scale > 1 else 1)
    values = passes * sum(prod(shapes[path]) for path in paths)
    cost = Cost(rows=passes, counted=OBSERVED * values, bytes=size, files=2, memory=3 * size)
    told = f"would run {len(rows):,} of {len(points):,} points and observe {len(paths)} layers x {steps} timesteps"
    return told, cost


def observe_batch(
    network: Network, points: PointSet, batch: Indices, statistics: ActivationStatistics
) -> None:
    """Runs points of one prompt, each at its own timestep, and adds what the layers received to `statistics`.

    With guidance every point runs twice, with its prompt and with the negative one, as when pictures are drawn.
    """
    ts, anatomy = points.ts[batch], network.anatomy

    def observe(path: str, x: mx.array) -> None:
        values = np.array(x.astype(mx.float32))
        if _once_a_prompt(anatomy.site(path)):  # every point counts what its layer received
            values = np.broadcast_to(values, (len(ts), *values.shape))
        for timestep, part in _by_timestep(path, values, ts):
            statistics.add(path, timestep, part)

    with traced(network, list(statistics.layers), observe):
        mx.eval(forward(network, points, batch))
    statistics.points = np.concatenate([statistics.points, batch])


def forward(network: Network, points: PointSet, batch: Indices) -> mx.array:
    """The predictions for points of one prompt: rows [prompt, negative] or, without guidance, the prompt alone."""
    rows = 2 if points.cfg_scale > 1 else 1
    conditioning = points.conditioning(int(points.prompt_indices[batch[0]]))[:rows]
    x = mx.array(points.xs[batch]).astype(network.dtype)
    inputs = network.prepare(conditioning, mx.array(points.ts[batch]))
    return network(mx.concatenate([x] * rows), **inputs.pairs())


def _once_a_prompt(site: Site) -> bool:
    """Whether a layer runs once for all timesteps: its input depends on the prompt alone."""
    return site.rows == "prompts" or (site.phase == "prepare" and site.rows in ("tokens", "prompt_tokens"))


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


def _nothing_yet(network: Network, meta: dict[str, Any]) -> ActivationStatistics:
    layers = network.anatomy.modules(network)
    weights = {}
    for path in meta["layers"]:
        weight = layers[path].weight.reshape(-1, capture.channels(layers[path])).astype(mx.float32)
        weights[path] = np.array(weight.min(axis=0), np.float64), np.array(weight.max(axis=0), np.float64)
    return ActivationStatistics({path: {} for path in weights}, weights, np.zeros(0, np.int64), meta)


def points_digest(points: PointSet) -> str:
    """A digest of the calibration points, for plans and meta data."""
    arrays = (points.xs, points.ts, points.prompt_indices, points.cs, points.cs_pooled, points.cs_mask)
    return plan.digest(*(np.ascontiguousarray(array).tobytes() for array in arrays if array is not None))


def parts_of(output: Path) -> Path:
    """The folder beside `output` where an unfinished run keeps its state."""
    return output.with_name(f"{output.name}.parts")


def _check_fit(model: TextToImage, points: PointSet) -> None:
    geometry, pooled = model.geometry, points.cs_pooled
    for name, found, wanted in (
        ("latent channels", points.xs.shape[-1], geometry.latent_channels),
        ("text features", points.cs.shape[-1], geometry.text_dim),
        ("pooled features", None if pooled is None else pooled.shape[-1], geometry.pooled_dim),
        ("masks", points.cs_mask is not None, geometry.masked),
    ):
        if found != wanted:
            raise UserError(
                f"calibration points: {name}", got=found, expected=f"{wanted} as {model.name} has"
            )
    if len(points) == 0:
        raise UserError("calibration points", got="none", expected="at least 1")
