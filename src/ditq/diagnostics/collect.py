"""Replays calibration pictures and keeps, timestep by timestep, what the layers that will be quantized receive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Float64

import ditq
from ditq import capture
from ditq.calibration import ImageSet, check_model, check_network, replay
from ditq.capture import Layer, traced
from ditq.core import plan
from ditq.core.errors import DitqError, UserError
from ditq.diagnostics.channels import PerChannel
from ditq.diagnostics.layer_files import KIND, MANIFEST, VERSION, noise_entry, whole_step, write_step
from ditq.diagnostics.layer_inputs import InputStatistics, priorities, sample_rows
from ditq.diagnostics.selection import check_selection
from ditq.models.anatomy import Anatomy
from ditq.models.base import Network, TextToImage
from ditq.models.digest import weights_digest

PENDING_BYTES = 1 << 28
"""Inputs that are kept until they are evaluated together."""


@dataclass(frozen=True)
class InputRecipe:
    """Which pictures and steps are replayed, and what is kept."""

    num_images: int = 5
    stride: int = 2
    """Every stride-th step, from the first on."""
    batch_size: int = 1
    """Pictures at once; guidance doubles them. The statistics depend on it only through matrix products' rounding."""
    inputs: str = "all"
    """"all" layers of the blocks, or those behind an activation function: "postgelu"."""
    sample_values: int = 65536
    """Values per layer and timestep that are kept whole, in rows drawn at random."""
    shard: tuple[int, int] = (0, 1)
    """(k, n): every n-th picture, from the k-th on."""

    def __post_init__(self) -> None:
        names = ("num_images", "stride", "batch_size", "sample_values")
        check_selection({name: getattr(self, name) for name in names}, self.inputs, self.shard)

    def images(self, available: int) -> list[int]:
        """The pictures that are replayed. Raises UserError when a shard would hold none."""
        chosen = list(range(min(self.num_images, available)))[self.shard[0] :: self.shard[1]]
        if not chosen:
            raise UserError("--shard", got=f"no picture of {available}", remedy="use fewer shards")
        return chosen


def observed_inputs(network: Network, inputs: str) -> dict[str, str]:
    """Every layer of the blocks that can be quantized, by path, with the path of the layer observed for it.

    Raises DitqError for a layer that the network's anatomy does not know.
    """
    sites = [network.anatomy.site(path) for path in network.anatomy.modules(network)]
    return {
        site.path: site.input
        for site in sites
        if site.phase == "block" and (inputs == "all" or site.post_gelu)
    }


def collect_inputs(
    model: TextToImage,
    images: ImageSet,
    recipe: InputRecipe,
    folder: Path,
    resume: bool = False,
    on_images: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Fills `folder` as `layer_files` describes it; returns the manifest.

    A timestep's file is written when all its pictures have run: a resumed run makes what is missing, cut off or not as
    it must be, and its files are bit for bit those of an uninterrupted run. Raises UserError when the pictures are of
    another model or the folder was begun with other settings, DitqError when an activation is not finite.
    """
    check_model(images, model)
    chosen = recipe.images(len(images.manifest["prompts"]))
    network = model.network()
    layers = observed_inputs(network, recipe.inputs)
    manifest = manifest_of(model, images, recipe, chosen, layers, network)
    check_network(images, network)
    new = not (folder / MANIFEST).exists()
    plan.begin(folder / MANIFEST, manifest, resume)
    norms = column_norms(network.anatomy.modules(network), layers)
    for step in manifest["step_keys"]:
        if new or not whole_step(folder, step, manifest):
            found = observe_step(network, images, recipe, chosen, step, norms, on_images)
            write_step(folder, step, found, manifest)
        else:
            on_images(len(chosen))
    return manifest


def observe_step(
    network: Network,
    images: ImageSet,
    recipe: InputRecipe,
    chosen: Sequence[int],
    step: int,
    norms: dict[str, PerChannel],
    on_images: Callable[[int], None] = lambda count: None,
) -> dict[str, InputStatistics]:
    """The statistics of every observed input over the chosen pictures at one step; `norms` are their `column_norms`."""
    found = nothing_yet(network.anatomy, norms, recipe.sample_values)
    for start in range(0, len(chosen), recipe.batch_size):
        batch = list(chosen[start : start + recipe.batch_size])
        keys = [plan.digest(images.digest, str(image), str(step)) for image in batch]
        observe = Observer(found, keys, 2 if images.guided else 1, f"step {step}")
        with traced(network, list(found), observe):
            mx.eval(replay(network, images, batch, step))
        observe.flush()
        on_images(len(batch))
    for part in found.values():
        part.finish()
    return found


def nothing_yet(anatomy: Anatomy, norms: dict[str, PerChannel], values: int) -> dict[str, InputStatistics]:
    """Empty statistics of every observed input; the moving shift is kept behind activation functions."""
    return {
        path: InputStatistics.empty(own, anatomy.site(path).post_gelu, sample_rows(values, len(own)))
        for path, own in norms.items()
    }


def column_norms(modules: dict[str, Layer], layers: dict[str, str]) -> dict[str, PerChannel]:
    """For every observed input, each channel's squared weights summed over all layers that receive it."""
    norms: dict[str, PerChannel] = {}
    for path, source in layers.items():
        weight = modules[path].weight.reshape(-1, capture.channels(modules[path]))
        own = np.array(mx.square(weight.astype(mx.float32)).sum(axis=0), np.float64)
        norms[source] = norms[source] + own if source in norms else own
    return norms


class Observer:
    """Receives the inputs of a batch of pictures from `traced`; `flush` ends the batch.

    `keys` are the pictures' seeds for drawing rows. Inputs are kept until `PENDING_BYTES` of them are there, and are
    then evaluated together: a model that is stopped at each layer runs much slower.
    """

    def __init__(self, found: dict[str, InputStatistics], keys: Sequence[str], guidance: int, where: str):
        self.found, self.keys, self.guidance, self.where = found, keys, guidance, where
        self._pending: list[tuple[str, mx.array]] = []
        self._bytes = 0
        self._drawn: dict[int, Float64[np.ndarray, "guidance images tokens"]] = {}

    def __call__(self, path: str, x: mx.array) -> None:
        """Keeps what the layer at `path` receives."""
        self._pending.append((path, x))
        self._bytes += x.nbytes
        if self._bytes > PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Evaluates and adds what was kept. Raises DitqError, naming layer and step, for values that are not finite."""
        mx.eval([x for _, x in self._pending])
        for path, x in self._pending:
            values: Float32[np.ndarray, "*shape"] = np.asarray(x.astype(mx.float32))
            # a convolution's pixels count as tokens
            shaped = values.reshape(self.guidance, len(self.keys), -1, values.shape[-1])
            try:
                self.found[path].observe(shaped, self._priorities(shaped.shape[2]))
            except DitqError as error:
                remedy = "the model's dtype overflowed; use bfloat16 or float32"
                raise DitqError(f"{path} at {self.where}: {error}; {remedy}") from error
        self._pending.clear()
        self._bytes = 0

    def _priorities(self, tokens: int) -> Float64[np.ndarray, "guidance images tokens"]:
        """The same for all inputs with so many rows: the layers of a stream keep the same tokens."""
        if tokens not in self._drawn:
            own = [priorities(key, self.guidance, tokens) for key in self.keys]
            self._drawn[tokens] = np.stack(own, axis=1)
        return self._drawn[tokens]


def manifest_of(
    model: TextToImage,
    images: ImageSet,
    recipe: InputRecipe,
    chosen: Sequence[int],
    layers: dict[str, str],
    network: Network,
) -> dict[str, Any]:
    """All that is known before the run: what is observed, of what, and how."""
    steps = list(range(0, len(images.sigmas), recipe.stride))
    modules = network.anatomy.modules(network)
    return {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": model.name,
        **noise_entry(model.noise),
        "dtype": str(network.dtype),
        plan.WEIGHTS: weights_digest(network),
        "guidance": images.manifest["cfg_weight"],
        "inputs": recipe.inputs,
        "sample_values": recipe.sample_values,
        "batch_size": recipe.batch_size,
        "images": [f"{images.digest}:{image}" for image in chosen],
        "step_keys": steps,
        "sigma_map": {str(step): images.sigmas[step] for step in steps},
        "layers": {
            path: {
                "input": source,
                "channels": capture.channels(modules[path]),
                **_facts(network.anatomy, path),
            }
            for path, source in layers.items()
        },
    }


def _facts(anatomy: Anatomy, path: str) -> dict[str, Any]:
    """What readers without a model need of a layer."""
    site = anatomy.site(path)
    return {
        "label": site.label,
        "stream": site.stream,
        "role": site.role,
        "post_gelu": site.post_gelu,
        "foldable": site.fold is not None,
    }
