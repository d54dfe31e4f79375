"""The last pass: what is continuous in a quantized network, learned end to end.

Codes are decided block by block, on what each block returns. Then the scales of all quantized layers and their biases
are learned together on what counts: the prediction along the float model's trajectories, with the inputs on their
grids. mlx-lm's DWQ distils the scales of a language model in this way. Codes stay as they are, so that nothing is added
to what is stored or computed.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from jaxtyping import Float

from ditq import capture
from ditq.activations import ActivationTable
from ditq.calibration import ImageSet, first_of_prompt
from ditq.core import affine
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.core.schema import at_least, checked
from ditq.models.base import Conditioning, Network
from ditq.weights.block_error import held_out_pictures
from ditq.weights.quantized_block import GridLayer, InputGrid, LayerOnGrid

Weights = Mapping[str, QuantizedWeight]
Learned = dict[str, dict[str, mx.array]]
"""By layer: `factor`, the logarithm of what the scales are multiplied by, and `bias`."""
OnStep = Callable[[int, float], None]
"""Receives the number of the finished step and its loss, as a part of the prediction's mean square."""
CHECKS = 6
"""Judgements on held-out pictures along the way."""
PER_WEIGHT = 8
"""Element-wise operations of a step for each weight: its value from its code, and the gradient's way back."""
JUDGED_STEPS = 4
"""Steps of the trajectories that judge."""


@dataclass(frozen=True)
class Tuning:
    """How the last pass is done."""

    steps: Annotated[int, at_least(1)] = 300
    pictures: Annotated[int, at_least(1)] = 8
    """In each step: with guidance, twice as many rows."""
    rate: float = 1e-3
    """Of Adam, falling to 0 along a cosine."""


def tuning_cost(method: Tuning, meta: Mapping[str, Any], weights: int) -> Cost:
    """What a run takes with a block cache that `meta` describes, in a network of so many `weights`.

    A step runs the float network, and the quantized one with its gradients; a judgement runs both. The gradients hold
    every matrix in float32, twice.
    """
    pictures = list(dict.fromkeys(image for image, _ in meta["samples"]))
    judged = (CHECKS + 2) * JUDGED_STEPS * len(held_out_pictures(pictures) or pictures)
    learned = method.steps * min(method.pictures, len(pictures))
    rows = meta["rows_per_sample"] * (4 * learned + 2 * judged)
    return Cost(rows=rows, values=PER_WEIGHT * weights * method.steps, memory=8.0 * weights)


def tuning_of(content: Mapping[str, Any] | None, where: str) -> Tuning | None:
    """What a recipe's `tuning` asks; None: no last pass. Raises UserError that names the field at fault."""
    if content is None:
        return None
    found = checked(dict(content), Tuning, f"{where}: tuning")
    if not 0 < found.rate <= 1:
        raise UserError(f"{where}: tuning: rate", got=found.rate, expected="above 0, at most 1")
    return found


@dataclass(frozen=True)
class Batch:
    """What the network is given for some pictures at one step, rows [prompts, negatives], and what it predicts."""

    conditioning: Conditioning
    latents: Float[mx.array, "rows height width channels"]
    timestep: float
    wanted: Float[mx.array, "rows height width channels"]


class Tuner:
    """Learns scales and biases of `weights` in `network`, whose inputs stand on the grids of `table`."""

    def __init__(
        self,
        network: Network,
        weights: Weights,
        table: ActivationTable | None,
        images: ImageSet,
        chosen: Sequence[int],
        method: Tuning,
        seed: int = 0,
    ):
        self.network, self.weights, self.table, self.images = network, weights, table, images
        self.method, self.seed = method, seed
        self.guidance = images.manifest["cfg_weight"] if images.guided else 1.0
        self.layers = capture.layers(network)
        first = first_of_prompt(dict(enumerate(images.manifest["prompts"])))
        held_out = held_out_pictures(first[image] for image in chosen)
        self.held_out = [image for image in chosen if first[image] in held_out] or list(chosen)
        self.used = [image for image in chosen if image not in self.held_out] or list(chosen)

    def run(
        self, file: Path, on_step: OnStep = lambda step, loss: None
    ) -> tuple[dict[str, QuantizedWeight], dict[str, Any]]:
        """The weights with what was learned, and a report; those given, where held-out pictures do not gain.

        The state after each judgement is kept in `file`, from which a resumed run goes on to the same bits.
        """
        steps = self.method.steps
        adam = optimizers.Adam(optimizers.cosine_decay(self.method.rate, steps), bias_correction=True)
        learned = self._begin()
        adam.init(learned)
        best, errors, begun = learned, [self._judged(learned)], 0
        if (kept := _kept(file)) is not None:
            learned, best, adam.state, errors, begun = _restored(file, kept, learned, adam.state)
        every = -(-steps // CHECKS)
        for step in range(begun, steps):
            loss, gradient = mx.value_and_grad(partial(self._loss, self._batch(step)))(learned)
            learned = adam.apply_gradients(gradient, learned)
            mx.eval(learned, adam.state)
            on_step(step + 1, float(loss))
            if (step + 1) % every == 0 or step + 1 == steps:
                errors.append(self._judged(learned))
                best = learned if errors[-1] < min(errors[:-1]) else best
                _write(file, learned, best, adam.state, errors, step + 1)
        return self._finished(best, errors)

    def _finished(
        self, best: Learned, errors: list[float]
    ) -> tuple[dict[str, QuantizedWeight], dict[str, Any]]:
        made = {path: _tuned(weight, best[path]) for path, weight in self.weights.items()}
        error = self._judged({path: _exact(weight, made[path]) for path, weight in self.weights.items()})
        kept = not error < errors[0]  # a NaN keeps what was there too
        report = {
            "error_before": errors[0],
            "error": errors[0] if kept else error,
            "kept_before": kept,
            "pictures_judged": len(self.held_out),
        }
        return dict(self.weights) if kept else made, report

    def _begin(self) -> Learned:
        learned = {}
        for path, weight in self.weights.items():
            layer = self.layers[path]
            bias = {"bias": layer.bias.astype(mx.float32)} if "bias" in layer else {}
            learned[path] = {"factor": mx.zeros_like(weight.scale), **bias}
        return learned

    def _batch(self, step: int) -> Batch:
        random = np.random.default_rng([self.seed, step])
        chosen = random.choice(self.used, min(self.method.pictures, len(self.used)), replace=False)
        return self._at(chosen.tolist(), int(random.integers(len(self.images.sigmas))))

    def _at(self, chosen: Sequence[int], step: int) -> Batch:
        conditioning = self.images.conditioning(chosen)
        x = mx.array(self.images.latents(chosen, step))
        latents = mx.concatenate([x] * (len(conditioning) // len(chosen)))
        timestep = float(self.images.timesteps([step])[0])
        wanted = self._predicted(conditioning, latents, timestep)
        mx.eval(wanted)
        return Batch(conditioning, latents, timestep, wanted)

    def _predicted(self, conditioning: Conditioning, latents: mx.array, timestep: float) -> mx.array:
        return self.network(latents, **self.network.prepare(conditioning, mx.array([timestep])).at(0))

    def _loss(self, batch: Batch, learned: Learned) -> mx.array:
        """The mean squared error of the predictions and of the guided one, as a part of the float model's power."""
        grids = self._grids(batch.timestep)
        layers = {}
        for path, weight in self.weights.items():
            own = GridLayer(
                _values(weight, learned[path]["factor"]), learned[path].get("bias"), grids.get(path)
            )
            layers[path] = LayerOnGrid(self.layers[path], own)
        with capture.swapped(self.network, layers):
            error = self._predicted(batch.conditioning, batch.latents, batch.timestep) - batch.wanted
        plain = mx.square(error).mean()
        if self.guidance > 1:
            prompt, negative = mx.split(error, 2)
            plain = (plain + mx.square(negative + self.guidance * (prompt - negative)).mean()) / 2
        return plain / mx.square(batch.wanted).mean()

    def _grids(self, timestep: float) -> dict[str, InputGrid]:
        if self.table is None:
            return {}
        found = {}
        for path, grid in self.table.grids.items():
            rows = grid.at(np.array([timestep]))
            pixels = isinstance(self.layers.get(path), nn.Conv2d)
            found[path] = InputGrid.at(rows, slice(None), grid.smooth, pixels)  # one row for all samples
        return found

    def _judged(self, learned: Learned) -> float:
        """The loss on the held-out pictures, at a few steps from the first to the last."""
        last = len(self.images.sigmas) - 1
        steps = np.unique(np.linspace(0, last, JUDGED_STEPS).round().astype(int)).tolist()
        size = self.method.pictures
        parts = [self.held_out[i : i + size] for i in range(0, len(self.held_out), size)]
        losses = [
            (float(self._loss(self._at(part, step), learned)), len(part)) for step in steps for part in parts
        ]
        return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def _values(weight: QuantizedWeight, factor: mx.array) -> mx.array:
    """The matrix with its scales multiplied, differentiable in the factors' logarithms."""
    return affine.dequantize(weight.codes, weight.scale * mx.exp(factor), weight.zero)


def _tuned(weight: QuantizedWeight, learned: Mapping[str, mx.array]) -> QuantizedWeight:
    """The weight with these scales and this bias, both as a checkpoint stores them."""
    scale = affine.storable(weight.scale * mx.exp(learned["factor"]))
    bias = learned.get("bias")
    return replace(
        weight, scale=scale, bias=None if bias is None else bias.astype(mx.float16).astype(mx.float32)
    )


def _exact(weight: QuantizedWeight, made: QuantizedWeight) -> dict[str, mx.array]:
    """What `made` holds, in the form in which it is learned."""
    bias = {} if made.bias is None else {"bias": made.bias}
    return {"factor": mx.log(made.scale / weight.scale), **bias}


def _write(file: Path, learned: Learned, best: Learned, state: Any, errors: list[float], step: int) -> None:
    parts = {"learned": learned, "best": best, "adam": state}
    write_npz(file, {**_flat(parts, ""), "errors": np.array(errors), "step": np.array(step)})


def _kept(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays that an earlier run left; None where there are none, or the file is damaged."""
    if not file.exists():
        return None
    try:
        return read_npz(file)
    except UserError as error:
        warnings.warn(f"{error}; scales and biases are tuned from the beginning", stacklevel=3)
        return None


def _restored(
    file: Path, arrays: Mapping[str, np.ndarray], learned: Learned, state: Any
) -> tuple[Learned, Learned, Any, list[float], int]:
    """The state in what `_write` wrote. Raises UserError for arrays of something else."""
    wanted = {"learned": learned, "best": learned, "adam": state}
    for name, array in {**_flat(wanted, ""), "errors": None, "step": None}.items():
        found = arrays.get(name)
        if found is None or (array is not None and found.shape != array.shape):
            got = "nothing" if found is None else f"shape {found.shape}"
            expected = "the state of this recipe's tuning"
            raise UserError(f"{file}: {name}", got=got, expected=expected, remedy="remove the file")
    parts = _like(wanted, arrays, "")
    errors = [float(one) for one in arrays["errors"]]
    return parts["learned"], parts["best"], parts["adam"], errors, int(arrays["step"])


def _flat(tree: Any, name: str) -> dict[str, np.ndarray]:
    """The arrays of a tree by their way in it."""
    if not isinstance(tree, Mapping):
        return {name: np.array(tree)}
    found: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{name}/{key}" if name else key)
    return found


def _like(tree: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """A tree of this form with these arrays."""
    if not isinstance(tree, Mapping):
        return mx.array(arrays[name])
    return {key: _like(value, arrays, f"{name}/{key}" if name else key) for key, value in tree.items()}
