"""Errors along the float model's trajectories: both models are given the same latents, noise level by noise level.

A finished picture says how far two trajectories have come apart; it does not say where. Here the quantized model
predicts from the float model's own latents (teacher forcing, as of language models), so that each noise level, block
and layer is measured by itself, without the errors of those before it. Beside it: how far the latents are apart where
the quantized model follows its own trajectory from the same noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float

from ditq import capture
from ditq.evaluation.layer_errors import Sums, add, measured
from ditq.models.base import Conditioning, Network, TextToImage
from ditq.models.state import run_block
from ditq.nn import clock_of
from ditq.sampling.generate import Settings
from ditq.sampling.guidance import Denoiser
from ditq.sampling.steppers import noise, sample

INNER_STEPS = 8
"""Noise levels at which blocks and layers are compared, evenly spread over a run."""


@dataclass(frozen=True)
class Trajectory:
    """What the float model saw and predicted from one noise on, step by step."""

    latents: Float[np.ndarray, "levels height width channels"]
    """Before each step, and behind the last one."""
    predictions: Float[np.ndarray, "steps height width channels"]
    """With guidance."""


@dataclass(frozen=True)
class TrajectoryErrors:
    """One variant along one trajectory, as pairs (sum of squared differences, sum of squares of the float values).

    Pairs of several trajectories add up: the relative error of all is the root of the sums' ratio.
    """

    prediction: list[Sums]
    """By step: of the guided prediction for the float model's latents."""
    latents: list[Sums]
    """By step: of the latents behind it, where each model follows its own trajectory."""
    inner_steps: list[int]
    """The steps at which blocks and layers were compared."""
    blocks: list[list[Sums]]
    """By block, then inner step: of what the block makes of the float model's state (`layer_errors.measured`)."""
    layers: dict[str, list[Sums]]
    """By quantized layer, then inner step: of its output for the float model's input."""


def inner_steps(steps: int) -> list[int]:
    """The steps at which blocks and layers are compared: the first, the last, and some between."""
    return np.unique(np.linspace(0, steps - 1, min(steps, INNER_STEPS)).round().astype(int)).tolist()


def trajectory(model: TextToImage, prompt: str, seed: int, settings: Settings) -> Trajectory:
    """The float model's trajectory of one prompt and seed."""
    latents: list[np.ndarray] = []
    predictions: list[np.ndarray] = []

    def on_step(step: int, x: mx.array, predicted: mx.array) -> None:
        latents.append(_plain(x))
        predictions.append(_plain(predicted))

    last = _follow(model, prompt, seed, settings, on_step)
    return Trajectory(np.stack([*latents, _plain(last)]), np.stack(predictions))


def errors_along(
    reference: TextToImage,
    model: TextToImage,
    known: Trajectory,
    prompt: str,
    seed: int,
    settings: Settings,
    on_step: Callable[[], None] = lambda: None,
) -> TrajectoryErrors:
    """The errors of `model`, a quantized self of `reference`, along the reference's trajectory `known`.

    `on_step()` is called after each of the run's steps and after each inner step.
    """
    denoise = _denoiser(model, prompt, settings)
    prediction: list[Sums] = []
    for step, target in enumerate(known.predictions):
        prediction.append(_sums(denoise(mx.array(known.latents[step])[None], step)[0], mx.array(target)))
        on_step()
    behind: list[np.ndarray] = []
    last = _follow(model, prompt, seed, settings, lambda step, x, _: behind.append(_plain(x)))
    behind = [*behind[1:], _plain(last)]
    apart = [_sums(mx.array(x), mx.array(y)) for x, y in zip(behind, known.latents[1:], strict=True)]
    chosen = inner_steps(settings.steps)
    blocks: list[list[Sums]] = [[] for _ in reference.network().blocks]
    layers: dict[str, list[Sums]] = {}
    conditioning = _conditioning(reference, prompt, settings)
    for step in chosen:
        of_blocks, of_layers = _inside(
            reference.network(), model.network(), conditioning, known.latents[step], settings, step
        )
        for block, pair in enumerate(of_blocks):
            blocks[block].append(pair)
        for path, pair in of_layers.items():
            layers.setdefault(path, []).append(pair)
        on_step()
    return TrajectoryErrors(prediction, apart, chosen, blocks, layers)


def changed_layers(reference: Network, network: Network) -> dict[str, nn.Module]:
    """The modules of `network` with other weights than the layers of `reference` in their places, by path."""
    found = {path: capture.module_at(network, path) for path in capture.layers(reference)}
    own = capture.layers(reference)
    return {path: module for path, module in found.items() if module.get("weight") is not own[path].weight}


def _inside(
    reference: Network,
    network: Network,
    conditioning: Conditioning,
    latents: Float[np.ndarray, "height width channels"],
    settings: Settings,
    step: int,
) -> tuple[list[Sums], dict[str, Sums]]:
    """Errors of every block and layer of `network` at one step, each given what the reference's gets."""
    timesteps = settings.process.timesteps(settings.sigmas[:-1])[step : step + 1]
    clock = clock_of(network)
    if clock is not None:
        clock.follow(timesteps)
        clock.set(0)
    changed = changed_layers(reference, network)
    own = capture.layers(reference)
    of_layers: dict[str, Sums] = {}
    of_blocks: dict[int, Sums] = {}

    def observe(path: str, x: mx.array) -> None:
        add(of_layers, path, changed[path](x), own[path](x))

    x = mx.array(np.stack([latents] * len(conditioning))).astype(reference.dtype)
    with capture.traced(reference, list(changed), observe):
        inputs = reference.prepare(conditioning, mx.array(timesteps, dtype=mx.float32)).at(0)
        states = reference.boundaries(x, **inputs)
        state = next(states)
        for number, following in enumerate(states):
            mx.eval(following)
            ours = run_block(network.blocks[number], state)
            for name in measured(reference.flow, number):
                add(of_blocks, number, ours[name], following[name])
            state = following
        mx.eval(reference.finish(state, *x.shape[1:3]))
    return [of_blocks[number] for number in sorted(of_blocks)], of_layers


def _denoiser(model: TextToImage, prompt: str, settings: Settings) -> Callable[[mx.array, int], mx.array]:
    conditioning = model.encode([prompt, settings.negative])
    denoiser = Denoiser(model.network(), settings.process)
    return denoiser.run(conditioning[:1], conditioning[1:], settings.sigmas, settings.guidance)


def _conditioning(model: TextToImage, prompt: str, settings: Settings) -> Conditioning:
    """What the network is given at each step: the prompt, and the negative where guidance runs it."""
    both = model.encode([prompt, settings.negative])
    return both if settings.guidance > 1 else both[:1]


def _follow(
    model: TextToImage,
    prompt: str,
    seed: int,
    settings: Settings,
    on_step: Callable[[int, mx.array, mx.array], None],
) -> mx.array:
    x = noise([seed], *settings.latent_shape(model.geometry))
    denoise = _denoiser(model, prompt, settings)
    return sample(denoise, x, settings.sigmas, settings.sampler, settings.process, on_step, model.prediction)


def _plain(x: mx.array) -> np.ndarray:
    """The only row of a batch of one, float32."""
    return np.array(x.astype(mx.float32))[0]


def _sums(value: mx.array, reference: mx.array) -> Sums:
    found: dict[str, Sums] = {}
    add(found, "", value.reshape(-1), reference.reshape(-1))
    return found[""]


def summed(parts: Sequence[Sums]) -> Sums:
    """The pairs of several trajectories or steps as one."""
    return sum(wrong for wrong, _ in parts), sum(size for _, size in parts)


def by_path(parts: Sequence[Mapping[str, list[Sums]]]) -> dict[str, list[Sums]]:
    """The layers of several trajectories: their pairs summed, step by step."""
    return {
        path: [summed(pairs) for pairs in zip(*(part[path] for part in parts), strict=True)]
        for path in parts[0]
    }
