"""Teacher-forced errors of several trajectories as curves, kept on disk trajectory by trajectory."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_npz, read_stored_json, write_json, write_npz
from ditq.core.schema import checked
from ditq.evaluation.layer_errors import Sums, relative
from ditq.evaluation.teacher_forced import (
    Trajectory,
    TrajectoryErrors,
    by_path,
    errors_along,
    inner_steps,
    summed,
    trajectory,
)
from ditq.evaluation.variants import Variant
from ditq.models.base import TextToImage
from ditq.models.digest import weights_digest
from ditq.sampling.generate import Settings

KIND, VERSION = "ditq.trajectory_errors", 1
FLOAT_FOLDER = "float_trajectories"


@dataclass(frozen=True)
class Curves:
    """Relative errors of one variant, |difference| / |float value| over all trajectories."""

    variant: str
    trajectories: int
    noise_levels: list[float]
    """sigma at each step."""
    prediction_error: float
    """Of the prediction (velocity or noise) for the float model's latents, over all steps."""
    prediction: list[float]
    """The same by step."""
    prediction_range: list[tuple[float, float]]
    """By step, its least and greatest value among the trajectories."""
    latents: list[float]
    """By step: of the latents behind it, each model on its own trajectory."""
    inner_steps: list[int]
    blocks: list[list[float]]
    """By block, then inner step: of the block's output for the float model's state."""
    layers: dict[str, list[float]]
    """By quantized layer, then inner step: of its output for the float model's input."""

    @property
    def worst_layers(self) -> list[tuple[str, float]]:
        """The layers with the mean of their errors over the inner steps, the largest first."""
        means = [(path, float(np.mean(errors))) for path, errors in self.layers.items()]
        return sorted(means, key=lambda entry: -entry[1])


def curves_of(name: str, parts: Sequence[TrajectoryErrors], settings: Settings) -> Curves:
    """The curves of a variant from its errors along several trajectories."""
    by_step = list(zip(*(part.prediction for part in parts), strict=True))
    single = [[relative(pair) for pair in pairs] for pairs in by_step]
    blocks = zip(*(part.blocks for part in parts), strict=True)
    return Curves(
        variant=name,
        trajectories=len(parts),
        noise_levels=[float(sigma) for sigma in settings.sigmas[:-1]],
        prediction_error=relative(summed([pair for pairs in by_step for pair in pairs])),
        prediction=[relative(summed(pairs)) for pairs in by_step],
        prediction_range=[(min(values), max(values)) for values in single],
        latents=_pooled([part.latents for part in parts]),
        inner_steps=parts[0].inner_steps,
        blocks=[_pooled(block) for block in blocks],
        layers={
            path: [relative(pair) for pair in pairs]
            for path, pairs in by_path([p.layers for p in parts]).items()
        },
    )


def measure_along_trajectories(
    model: TextToImage,
    variants: Sequence[Variant],
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    on_unit: Callable[[int], None] = lambda count: None,
) -> list[Curves]:
    """The curves of every variant along the float model's trajectories of these prompts and seeds.

    Finished trajectories lie in `folder` and are not computed again; `on_unit(n)` reports n more of
    `units(...)`. Raises UserError when the folder was begun with something else.
    """
    asked = {
        "model": model.name,
        "prompts": list(prompts),
        "seeds": list(seeds),
        "settings": settings.recorded(),
        plan.WEIGHTS: weights_digest(model.network()),
    }
    floats = folder / FLOAT_FOLDER
    plan.begin(floats / "plan.json", asked, resume=True, threads=True)
    for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        if _read_trajectory(_file(floats, number, "npz"), model, settings) is None:
            known = trajectory(model, prompt, seed, settings)
            write_npz(_file(floats, number, "npz"), asdict(known))
        on_unit(1)
    found = []
    for variant in variants:
        own = folder / variant.slug
        plan.begin(
            own / "plan.json",
            {**asked, "variant": variant.name, "fingerprint": variant.fingerprint},
            resume=True,
            threads=True,
        )
        found.append(
            curves_of(variant.name, _errors_of(model, variant, asked, settings, folder, on_unit), settings)
        )
    return found


def units(variants: int, trajectories: int) -> int:
    """How many units `measure_along_trajectories` reports."""
    return (variants + 1) * trajectories


def _errors_of(
    model: TextToImage,
    variant: Variant,
    asked: dict[str, Any],
    settings: Settings,
    folder: Path,
    on_unit: Callable[[int], None],
) -> list[TrajectoryErrors]:
    """The errors of a variant along each trajectory; it is opened only where one is missing."""
    own, pairs = folder / variant.slug, list(zip(asked["prompts"], asked["seeds"], strict=True))
    known = [_read_errors(_file(own, number, "json"), settings) for number in range(len(pairs))]
    on_unit(sum(one is not None for one in known))
    if all(one is not None for one in known):
        return [one for one in known if one is not None]
    found: list[TrajectoryErrors] = []
    with variant.opened(model) as opened:
        for number, (prompt, seed) in enumerate(pairs):
            done = known[number]
            if done is None:
                followed = _read_trajectory(_file(folder / FLOAT_FOLDER, number, "npz"), model, settings)
                followed = followed or trajectory(model, prompt, seed, settings)
                done = errors_along(model, opened, followed, prompt, seed, settings)
                content = {"kind": KIND, "version": VERSION, **asdict(done)}
                write_json(_file(own, number, "json"), content)
                on_unit(1)
            found.append(done)
    return found


def _file(folder: Path, number: int, ending: str) -> Path:
    return folder / f"{number:05d}.{ending}"


def _read_trajectory(path: Path, model: TextToImage, settings: Settings) -> Trajectory | None:
    """A stored trajectory; None where there is none, or one that is cut off or of another shape."""
    if not path.exists():
        return None
    try:
        arrays = read_npz(path, ("latents", "predictions"))
    except UserError:
        return None
    shape = settings.latent_shape(model.geometry)
    wanted = {"latents": (settings.steps + 1, *shape), "predictions": (settings.steps, *shape)}
    whole = all(
        array.shape == wanted[name] and array.dtype == np.float32 and bool(np.isfinite(array).all())
        for name, array in arrays.items()
    )
    return Trajectory(**arrays) if whole else None


def _read_errors(path: Path, settings: Settings) -> TrajectoryErrors | None:
    """The stored errors along a trajectory; None where there are none, or a file that is not whole."""
    if not path.exists():
        return None
    try:
        content = read_stored_json(path, KIND, VERSION, "an evaluation")
        values = {name: value for name, value in content.items() if name not in ("kind", "version")}
        found = checked(values, TrajectoryErrors, str(path))
    except UserError:
        return None
    whole = len(found.prediction) == settings.steps and found.inner_steps == inner_steps(settings.steps)
    return found if whole else None


def _pooled(trajectories: Sequence[Sequence[Sums]]) -> list[float]:
    """The relative error of all trajectories together, step by step."""
    return [relative(summed(pairs)) for pairs in zip(*trajectories, strict=True)]
