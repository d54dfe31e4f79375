"""Measures what errors in the layers' inputs cost: gradients at some steps, injected noise at a few, each a part file.

DAMAGE.npz.parts/plan.json            the settings
DAMAGE.npz.parts/step_{K}.npz         the squared gradients of every observed input at step K
DAMAGE.npz.parts/noise_{K}.npz        what remains of noise at step K
The folder is removed when the file is whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import ditq
from ditq import capture
from ditq.calibration import ImageSet, check_model, check_network, parts_of, selected_steps
from ditq.calibration.stored import check_array
from ditq.core import plan
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.files import npz_size, read_npz, remove, write_npz
from ditq.diagnostics.channels import PerChannel
from ditq.diagnostics.collect import observed_inputs
from ditq.diagnostics.damage import KIND, VERSION, Damage, read_damage, write_damage
from ditq.diagnostics.layer_files import noise_entry
from ditq.diagnostics.remaining import NoiseRuns
from ditq.diagnostics.sensitivity import squared_gradients
from ditq.models.base import Network, TextToImage
from ditq.models.cost import layer_inputs
from ditq.models.digest import weights_digest

BACKWARD = 3
"""A pass forwards and backwards, block by block, in passes forwards."""


@dataclass(frozen=True)
class DamageRecipe:
    """Which pictures and steps the measurement takes."""

    num_images: int = 4
    stride: int = 2
    """Gradients at every stride-th step, from the first on."""
    noise_steps: int = 5
    """Steps, evenly spread, at which noise is added; one more run of the sampler for each."""
    amplitude: float = 0.05
    """Of the noise, in units of the prediction's root mean square."""
    batch_size: int = 1
    """Pictures at once; guidance doubles them."""
    seed: int = 0
    """Of the random signs and of the noise."""

    def __post_init__(self) -> None:
        for name in ("num_images", "stride", "noise_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}", got=getattr(self, name), expected="at least 1")
        if not 0 < self.amplitude <= 1:
            raise UserError("--amplitude", got=self.amplitude, expected="above 0 and at most 1")

    def images(self, images: ImageSet) -> list[int]:
        """The pictures: the first ones."""
        return list(range(min(self.num_images, images.manifest["num_images"])))

    def steps(self, images: ImageSet) -> list[int]:
        """The steps of the gradients."""
        return list(range(0, len(images.sigmas), self.stride))

    def noisy(self, images: ImageSet) -> list[int]:
        """The steps of the noise."""
        count = len(images.sigmas)
        return selected_steps(count, min(self.noise_steps, count)).tolist()

    def batches(self, images: ImageSet) -> list[list[int]]:
        """The pictures, `batch_size` at a time."""
        chosen = self.images(images)
        return [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]

    def passes(self, images: ImageSet) -> int:
        """The work, in passes of one picture through the network."""
        pictures, count = len(self.images(images)), len(images.sigmas)
        drawn = count + sum(count - step for step in self.noisy(images))
        return pictures * (BACKWARD * len(self.steps(images)) + drawn)


def measure_damage(
    model: TextToImage,
    images: ImageSet,
    recipe: DamageRecipe,
    output: Path,
    resume: bool = False,
    on_passes: Callable[[int], None] = lambda count: None,
) -> Damage:
    """The damage by all inputs of the model's blocks, also written to `output`.

    Finished steps wait in `<output>.parts`: an interrupted run resumes there, to the same file. `on_passes(n)` reports
    n more of `recipe.passes`. Raises UserError for pictures of another model, and for a run begun with other settings.
    """
    check_model(images, model)
    network = model.network()
    check_network(images, network)
    parts = parts_of(output)
    meta = meta_of(model, images, recipe)
    if resume and output.exists():
        finished = read_damage(output)
        plan.check(f"cannot resume {output}", meta, finished.meta)
        return finished
    plan.begin(parts / "plan.json", {"kind": KIND, "version": VERSION, **meta}, resume, threads=True)
    layers = observed_inputs(network, "all")
    modules = network.anatomy.modules(network)
    channels = {source: capture.channels(modules[source]) for source in layers.values()}
    squares: dict[str, list[PerChannel]] = {source: [] for source in channels}
    for step in recipe.steps(images):
        path = parts / f"step_{step}.npz"
        found = _part(path, {source: (n,) for source, n in channels.items()})
        if found is None:
            found = _gradients(network, images, recipe, step, layers)
            write_npz(path, found)
        for source, one in found.items():
            squares[source].append(one)
        on_passes(BACKWARD * len(recipe.images(images)))
    damage = Damage(
        meta,
        np.array(recipe.steps(images), np.int64),
        {source: np.stack(rows) for source, rows in squares.items()},
        np.array(recipe.noisy(images), np.int64),
        np.array(_noise(model, images, recipe, parts, on_passes), np.float64),
    )
    write_damage(output, damage)
    remove(parts)
    return damage


def _gradients(
    network: Network, images: ImageSet, recipe: DamageRecipe, step: int, layers: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The squared gradients at a step, the mean over the pictures."""
    total: dict[str, np.ndarray] = {}
    for batch in recipe.batches(images):
        seed = _seed(recipe.seed, step, batch[0])
        part = len(batch) / len(recipe.images(images))
        for source, one in squared_gradients(network, images, batch, step, layers, seed).items():
            total[source] = total.get(source, 0.0) + part * one
    return total


def _noise(
    model: TextToImage,
    images: ImageSet,
    recipe: DamageRecipe,
    parts: Path,
    on_passes: Callable[[int], None],
) -> list[float]:
    """What remains of noise at each step of it, the mean over the pictures."""
    runs: list[NoiseRuns] = []
    pictures, remaining = len(recipe.images(images)), []
    for step in recipe.noisy(images):
        found = _part(parts / f"noise_{step}.npz", {"remaining": ()})
        if found is None:
            runs = runs or [NoiseRuns(model, images, batch) for batch in recipe.batches(images)]
            part = 0.0
            for batch, run in zip(recipe.batches(images), runs, strict=True):
                seed = _seed(recipe.seed, step, batch[0])
                part += run.remaining(step, recipe.amplitude, seed) * len(batch) / pictures
            found = {"remaining": np.array(part, np.float64)}
            write_npz(parts / f"noise_{step}.npz", found)
        remaining.append(float(found["remaining"]))
        on_passes(pictures * (len(images.sigmas) - step))
    on_passes(pictures * len(images.sigmas))
    return remaining


def meta_of(model: TextToImage, images: ImageSet, recipe: DamageRecipe) -> dict[str, Any]:
    """All that is known before the run: of what, and how."""
    network = model.network()
    return {
        plan.PRODUCER: f"ditq {ditq.__version__}",
        "model": model.name,
        **noise_entry(model.noise),
        "dtype": str(network.dtype),
        plan.WEIGHTS: weights_digest(network),
        "images": [f"{images.digest}:{image}" for image in recipe.images(images)],
        "sigmas": images.manifest["sigmas"],
        **asdict(recipe),
    }


def damage_cost(model: TextToImage, images: ImageSet, recipe: DamageRecipe) -> Cost:
    """What a measurement takes, its parts and the file that is made of them; nothing is loaded."""
    network, guided = model.skeleton(), 2 if images.guided else 1
    sides = images.latents(recipe.images(images)[:1], 0).shape[1:3]
    inputs = observed_inputs(network, "all")
    shapes = layer_inputs(network, model.geometry, *sides)
    held = sum(prod(shapes[path]) for path in set(inputs.values()))
    steps = len(recipe.steps(images))
    squares = {path: ((steps, shapes[path][-1]), 8) for path in set(inputs.values())}
    return Cost(
        rows=guided * recipe.passes(images),
        bytes=2 * npz_size(squares),
        files=steps + len(recipe.noisy(images)),
        memory=4.0 * BACKWARD * guided * min(recipe.batch_size, recipe.num_images) * held,
    )


def _part(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray] | None:
    """The arrays of a finished part; None where it is not there, or not as it must be."""
    if not path.exists():
        return None
    try:
        arrays = read_npz(path)
        if arrays.keys() != shapes.keys():
            return None
        for name, shape in shapes.items():
            check_array(path, name, arrays[name], shape, "float64")
    except UserError:
        return None
    return arrays


def _seed(*numbers: int) -> int:
    """A seed of its own for each step and batch of pictures."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
