"""Phase 1: many trajectories, a few evenly spread steps of each, flattened and shuffled into one file."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int

from ditq.calibration import defaults, drawn_by
from ditq.calibration.points import CONDITIONING, PointSet, read_points, write_points
from ditq.calibration.stored import check_array
from ditq.calibration.trajectories import record, selected_steps
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_npz, remove, write_npz
from ditq.models.base import Conditioning, TextToImage
from ditq.sampling.generate import Settings, settings_for


@dataclass(frozen=True)
class PointRecipe:
    """Which points are collected; the defaults are TaQ-DiT's."""

    trajectories: int = defaults.NUM_FID_SAMPLES
    steps: int = defaults.NUM_SAMPLING_STEPS
    selected: int = defaults.NUM_SELECTED_STEPS
    cfg_scale: float = defaults.CFG_SCALE
    latent_size: int = defaults.LATENT_SIZE
    seed: int = defaults.SEED
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name in ("trajectories", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(name.replace("_", " "), got=getattr(self, name), expected="at least 1")
        selected_steps(self.steps, self.selected)

    @property
    def points(self) -> int:
        """Calibration points in all."""
        return self.trajectories * self.selected

    @property
    def keep(self) -> Int[np.ndarray, "selected"]:
        """The step indices that are recorded."""
        return selected_steps(self.steps, self.selected)

    def settings(self, model: TextToImage) -> Settings:
        """The sampler's settings for `model`."""
        side = self.latent_size * model.geometry.factor
        return settings_for(model, height=side, width=side, steps=self.steps, guidance=self.cfg_scale)


def collect_points(
    model: TextToImage,
    prompts: Sequence[str],
    recipe: PointRecipe,
    output: Path,
    resume: bool = False,
    on_step: Callable[[int], None] = lambda steps: None,
) -> PointSet:
    """The points of `recipe`, also written to `output`.

    Trajectory i starts from seed `recipe.seed + i` under prompt i modulo their number. Finished trajectories wait in
    `<output>.parts`, which is removed at the end: an interrupted run resumes there, and its result is bit for bit that
    of an unbroken one; a finished run has nothing left to do. `on_step(n)` reports n more finished steps of one
    trajectory. Raises UserError when the parts were made with other settings or another network.
    """
    settings = recipe.settings(model)
    prompts = list(prompts)[: recipe.trajectories]
    parts = parts_of(output)
    meta = {"model": model.name, **asdict(recipe), **settings.recorded(), "prompts": prompts}
    if resume and output.exists():
        finished = read_points(output)
        plan.check(f"cannot resume {output}", meta, {**finished.meta, "prompts": finished.prompts})
        return finished
    new = not (parts / "plan.json").exists()
    plan.begin(parts / "plan.json", meta, resume, threads=True)
    shape = settings.latent_shape(model.geometry)
    todo = list(range(recipe.trajectories)) if new else _unfinished(parts, recipe, shape)
    on_step((recipe.trajectories - len(todo)) * recipe.steps)
    conditioning = model.encode([*prompts, settings.negative])
    drawn_by.begin(parts, model.network(), shape, new)
    if todo:
        _record_parts(model, conditioning, recipe, settings, parts, todo, on_step)
    xs = np.stack([read_npz(_part(parts, i))["x"] for i in range(recipe.trajectories)])
    points = _shuffled(
        xs, conditioning, prompts, recipe, settings, {k: v for k, v in meta.items() if k != "prompts"}
    )
    write_points(output, points)
    remove(parts)
    return points


def parts_of(output: Path) -> Path:
    """The folder beside `output` where finished trajectories wait."""
    return output.with_name(f"{output.name}.parts")


def _part(parts: Path, trajectory: int) -> Path:
    return parts / f"trajectory_{trajectory:05d}.npz"


def _unfinished(parts: Path, recipe: PointRecipe, latents: tuple[int, int, int]) -> list[int]:
    """The trajectories of every batch that is not complete: a batch is computed as it would have been at first."""
    shape = (recipe.selected, *latents)
    todo = []
    for start in range(0, recipe.trajectories, recipe.batch_size):
        batch = range(start, min(start + recipe.batch_size, recipe.trajectories))
        if not all(_whole(_part(parts, i), shape) for i in batch):
            todo += batch
    return todo


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a trajectory's file can be read and is as it must be."""
    try:
        check_array(path, "x", read_npz(path, ("x",))["x"], shape, "float16")
    except UserError:
        return False
    return True


def _record_parts(
    model: TextToImage,
    conditioning: Conditioning,
    recipe: PointRecipe,
    settings: Settings,
    parts: Path,
    todo: list[int],
    on_step: Callable[[int], None],
) -> None:
    rows = [i % (len(conditioning) - 1) for i in todo]
    seeds = [recipe.seed + i for i in todo]
    batches = record(
        model,
        conditioning.rows(rows),
        conditioning[-1:],
        seeds,
        settings,
        recipe.keep,
        recipe.batch_size,
        lambda: on_step(recipe.batch_size),
    )
    waiting = iter(todo)
    for batch in batches:
        for x in batch.x:
            write_npz(_part(parts, next(waiting)), {"x": x.astype(np.float16)})


def _shuffled(
    xs: Float16[np.ndarray, "trajectories selected height width channels"],
    conditioning: Conditioning,
    prompts: list[str],
    recipe: PointRecipe,
    settings: Settings,
    meta: dict[str, Any],
) -> PointSet:
    order = np.random.default_rng(recipe.seed).permutation(recipe.points)
    trajectories, steps = order // recipe.selected, recipe.keep[order % recipe.selected]
    arrays = {name: np.array(array, np.float32) for name, array in conditioning.arrays.items()}
    both = {
        CONDITIONING[name]: np.stack([a[:-1], np.broadcast_to(a[-1:], a[:-1].shape)], axis=1)
        for name, a in arrays.items()
    }
    return PointSet(
        xs=xs.reshape(-1, *xs.shape[2:])[order],
        ts=settings.process.timesteps(settings.sigmas[steps]).astype(np.float32),
        prompt_indices=(trajectories % len(prompts)).astype(np.int32),
        step_indices=steps.astype(np.int32),
        trajectory_indices=trajectories.astype(np.int32),
        **both,
        prompts=prompts,
        cfg_scale=recipe.cfg_scale,
        meta=meta,
    )
