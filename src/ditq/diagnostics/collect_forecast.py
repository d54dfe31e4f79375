"""What collecting the layers' inputs takes: counted from shapes, before anything is loaded."""

from dataclasses import dataclass
from math import prod

from ditq import capture
from ditq.calibration import ImageSet
from ditq.core.cost import Cost
from ditq.core.files import npz_size
from ditq.diagnostics.collect import PENDING_BYTES, InputRecipe, observed_inputs
from ditq.diagnostics.histogram import wide_edges
from ditq.diagnostics.layer_inputs import InputStatistics, sample_rows
from ditq.models.base import Geometry, Network, TextToImage
from ditq.models.cost import layer_inputs

VALUES = 10
"""Tallied values that an observed value's extremes, histogram and sample take as long as."""
HALVES = 1 << 16
"""Counters of an input's histogram."""
TALLIES = 12
"""How often they are gone through at a timestep."""
LAYER_ENTRY, INDEX_ENTRY = 380, 590
"""Bytes of a layer in the manifest, and in the index of a timestep, beside its path."""


@dataclass(frozen=True)
class ObservedInput:
    """One input of the layers, at one timestep."""

    path: str
    rows: int
    """Of all pictures and both rows of guidance."""
    channels: int
    shifted: bool
    """Whether moving midpoints are kept."""
    sample: int
    """Rows that are kept whole."""

    @staticmethod
    def of(path: str, found: InputStatistics) -> "ObservedInput":
        """That of collected statistics."""
        sample, channels = found.sample.rows.shape
        return ObservedInput(path, found.count, channels, found.shift is not None, sample)

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Shape and bytes of a value of each array that a timestep's file holds of it."""
        n = self.channels
        found = dict.fromkeys(("avg_min", "avg_max", "column_norms"), ((n,), 8))
        found |= dict.fromkeys(("abs_min", "abs_max"), ((n,), 4))
        found |= {"hist": ((len(wide_edges()) - 1,), 8), "images": ((), 8), "count": ((), 8)}
        found |= {"sample": ((self.sample, n), 2), "priorities": ((self.sample,), 8)}
        found |= {"shift": ((n,), 8)} if self.shifted else {}
        return {f"{self.path}::{name}": array for name, array in found.items()}


def input_shapes(
    network: Network,
    geometry: Geometry,
    recipe: InputRecipe,
    latents: tuple[int, int],
    pictures: int,
    guided: bool,
) -> list[ObservedInput]:
    """The observed inputs of so many pictures with latents (height, width)."""
    layers = network.anatomy.modules(network)
    shapes, found = layer_inputs(network, geometry, *latents), []
    for path in dict.fromkeys(observed_inputs(network, recipe.inputs).values()):
        rows = pictures * (2 if guided else 1) * prod(shapes[path][:-1])
        channels = capture.channels(layers[path])
        kept = min(rows, sample_rows(recipe.sample_values, channels))
        found.append(ObservedInput(path, rows, channels, network.anatomy.site(path).post_gelu, kept))
    return found


def collect_cost(
    network: Network,
    recipe: InputRecipe,
    inputs: list[ObservedInput],
    pictures: int,
    steps: int,
    guided: bool,
) -> Cost:
    """What collecting these inputs at so many steps takes."""
    at_once = min(recipe.batch_size, pictures) / pictures
    values = sum(one.rows * one.channels for one in inputs)
    arrays = {name: array for one in inputs for name, array in one.arrays.items()}
    written = npz_size({**arrays, "hist_edges": (wide_edges().shape, 8)})
    layers = observed_inputs(network, recipe.inputs)
    names = sum(len(path) + len(source) for path, source in layers.items())
    index, manifest = names + INDEX_ENTRY * len(layers), names + LAYER_ENTRY * len(layers)
    pending = min(4.0 * at_once * values, PENDING_BYTES)
    samples = sum(8 * one.sample * one.channels for one in inputs)
    step = Cost(
        rows=pictures * (2 if guided else 1),
        counted=VALUES * values + TALLIES * HALVES * len(inputs),
        bytes=written + index,
        files=2,
        memory=pending + samples + 8 * HALVES * len(inputs),
    )
    return step.times(steps) + Cost(bytes=manifest, files=1)


@dataclass(frozen=True)
class CollectForecast:
    """What a run would replay and observe."""

    pictures: int
    steps: int
    inputs: list[ObservedInput]
    layers: int
    cost: Cost

    def __str__(self) -> str:
        return (
            f"would replay {self.pictures} pictures x {self.steps} steps and observe {len(self.inputs)} inputs of "
            f"{self.layers} layers"
        )


def collect_forecast(model: TextToImage, images: ImageSet, recipe: InputRecipe) -> CollectForecast:
    """The forecast of `collect_inputs`; nothing is loaded."""
    network = model.skeleton()
    chosen = recipe.images(len(images.manifest["prompts"]))
    steps = len(range(0, len(images.sigmas), recipe.stride))
    manifest, factor = images.manifest, model.geometry.factor
    latents = manifest["height"] // factor, manifest["width"] // factor
    inputs = input_shapes(network, model.geometry, recipe, latents, len(chosen), images.guided)
    cost = collect_cost(network, recipe, inputs, len(chosen), steps, images.guided)
    return CollectForecast(len(chosen), steps, inputs, len(observed_inputs(network, recipe.inputs)), cost)
