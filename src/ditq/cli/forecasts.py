"""What dry runs say: a step's cost on this machine as seconds, memory and disk, in words and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ditq.activations import ActivationMethod
from ditq.calibration import ImageSet
from ditq.cli.folders import size_words
from ditq.core.cost import Cost
from ditq.diagnostics import ObservedInput
from ditq.diagnostics.collect import observed_inputs
from ditq.models import TextToImage
from ditq.models import probe as probing
from ditq.models.cost import layer_inputs, parameter_count
from ditq.models.probe import Machine
from ditq.sampling.generate import Settings
from ditq.weights.cost import ON_GRID

DECODING = 3000
"""Bytes for each pixel of the picture that is decoded."""
PICTURE = 0.4
"""Bytes of a PNG by those of its pixels."""


SOLVER_ROWS = 16
"""Rows that weight methods run through a block at once."""
CONFIG, ANALYSED = 213, 63
"""Bytes of a layer in quant_config.json, and of an input in the temporal analysis, at a timestep."""
FIGURE, FIGURE_SECONDS, FIGURE_MEMORY = 90_000, 0.8, 3e7
"""Bytes, seconds and memory of matplotlib's figures."""


@dataclass(frozen=True)
class Told:
    """What a run takes."""

    seconds: float
    memory: int
    """Of the whole process at its peak."""
    disk: int
    """At most at once."""

    @property
    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "seconds": round(self.seconds, 1),
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
        }

    def __str__(self) -> str:
        return (
            f"about {duration(self.seconds)} on this machine as it is now; memory: {size_words(self.memory)} at most; "
            f"disk: {size_words(self.disk)}"
        )


def told_of(machine: Machine, cost: Cost, disk: float | None = None) -> Told:
    """What a cost takes on a machine; `disk` where files are removed again."""
    return Told(machine.seconds(cost), machine.memory(cost), round(cost.bytes if disk is None else disk))


def machine_for(model: TextToImage, rows: int, height: int, width: int) -> Machine:
    """This machine with a model, in batches of so many rows of latents (height, width)."""
    return probing.probe(model, rows, height, width)


def machine_for_pictures(model: TextToImage, settings: Settings, batch_size: int) -> Machine:
    """This machine, drawing so many pictures at once."""
    height, width, _ = settings.latent_shape(model.geometry)
    return machine_for(model, batch_size * (2 if settings.guidance > 1 else 1), height, width)


def machine_for_images(model: TextToImage, images: ImageSet, batch_size: int) -> Machine:
    """This machine, replaying so many recorded pictures at once."""
    manifest, factor = images.manifest, model.geometry.factor
    rows = batch_size * (2 if images.guided else 1)
    return machine_for(model, rows, manifest["height"] // factor, manifest["width"] // factor)


def drawing_cost(settings: Settings, pictures: int, batch_size: int) -> Cost:
    """What denoising so many pictures takes, and their PNG files."""
    guided = 2 if settings.guidance > 1 else 1
    pixels = 3 * settings.width * settings.height
    return Cost(
        rows=guided * pictures * settings.steps,
        bytes=PICTURE * pictures * pixels,
        files=pictures,
        memory=picture_memory(settings, batch_size),
    )


def picture_memory(settings: Settings, batch_size: int) -> int:
    """Bytes of decoding pictures, one by one, and of a batch of them."""
    return settings.width * settings.height * (DECODING + 12 * batch_size)


def kept_pictures_cost(model: TextToImage, settings: Settings, pictures: int, batch_size: int) -> Cost:
    """What drawing pictures and keeping them for an evaluation takes; a variant is held beside the float model."""
    pixels, latents = 3 * settings.width * settings.height, prod(settings.latent_shape(model.geometry))
    drawn = drawing_cost(settings, pictures, batch_size)
    weights = parameter_count(model.skeleton()) * model.dtype.size
    return replace(
        drawn,
        bytes=pictures * (pixels + 4 * latents),
        files=pictures / batch_size,
        memory=drawn.memory + weights,
    )


def on_grid_cost(model: TextToImage, settings: Settings, pictures: int) -> Cost:
    """What putting the inputs of the blocks' layers on grids adds to denoising so many pictures."""
    network, (height, width, _) = model.skeleton(), settings.latent_shape(model.geometry)
    shapes = layer_inputs(network, model.geometry, height, width)
    values = sum(prod(shapes[path]) for path in set(observed_inputs(network, "all").values()))
    return Cost(values=ON_GRID * pictures * settings.steps * (2 if settings.guidance > 1 else 1) * values)


def decision_cost(
    method: ActivationMethod, inputs: Sequence[ObservedInput], layers: int, steps: int, figures: int
) -> Cost:
    """What deciding on grids takes, with the files that tell them."""
    written = (CONFIG * layers + ANALYSED * len(inputs)) * steps
    return method.cost(inputs, steps) + Cost(bytes=written, files=3) + figures_cost(figures)


def figures_cost(count: int) -> Cost:
    """What drawing so many figures takes."""
    return Cost(seconds=FIGURE_SECONDS * count, bytes=FIGURE * count, memory=FIGURE_MEMORY if count else 0)


def duration(seconds: float) -> str:
    """A duration in hours, minutes or seconds."""
    hours, minutes = seconds / 3600, seconds / 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
