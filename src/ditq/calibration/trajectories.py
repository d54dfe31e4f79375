"""The one recorder of denoising trajectories: every calibration file is written from what it hands out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Int

from ditq.core.errors import DitqError, UserError
from ditq.models.base import Conditioning, TextToImage
from ditq.sampling.generate import Settings
from ditq.sampling.guidance import Denoiser
from ditq.sampling.steppers import noise, sample


@dataclass(frozen=True)
class Trajectories:
    """The recorded steps of one batch of trajectories."""

    x: Float32[np.ndarray, "trajectories steps height width channels"]
    """The latents that the model was given at each recorded step."""
    final: Float32[np.ndarray, "trajectories height width channels"]
    """The denoised latents."""


def selected_steps(steps: int, selected: int) -> Int[np.ndarray, "selected"]:
    """`selected` of `steps` step indices, evenly spread, the first and the last among them.

    Raises UserError when there are not that many.
    """
    if steps < 1:
        raise UserError("sampling steps", got=steps, expected="at least 1")
    if not 1 <= selected <= steps:
        raise UserError("selected steps", got=selected, expected=f"from 1 to the {steps} sampling steps")
    return np.round(np.linspace(0, steps - 1, selected)).astype(int)


def record(
    model: TextToImage,
    prompts: Conditioning,
    negative: Conditioning,
    seeds: Sequence[int],
    settings: Settings,
    keep: Int[np.ndarray, "selected"],
    batch_size: int,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Trajectories]:
    """Runs trajectory i from noise `seeds[i]` under row i of `prompts`, in batches, and hands out each batch.

    x is taken before the model call of its step, so that (x, timestep) is exactly what the model saw. Distinct prompts
    share a batch; a trajectory depends on the others only through the rounding of larger matrix products. Raises
    DitqError when latents overflow.
    """
    denoiser, wanted = Denoiser(model.network(), settings.process), set(keep.tolist())
    shape = settings.latent_shape(model.geometry)
    for start in range(0, len(seeds), batch_size):
        rows = slice(start, start + batch_size)
        denoise = denoiser.run(prompts[rows], negative, settings.sigmas, settings.guidance)
        kept: list[Float32[np.ndarray, "trajectories height width channels"]] = []

        def on_each_step(step: int, x: mx.array, predicted: mx.array, kept: list = kept) -> None:
            if step in wanted:
                kept.append(np.array(x))
            on_step()

        x = noise(seeds[rows], *shape)
        final = np.array(
            sample(
                denoise,
                x,
                settings.sigmas,
                settings.sampler,
                settings.process,
                on_each_step,
                model.prediction,
            )
        )
        if not np.isfinite(final).all():
            raise DitqError(
                "the latents are not finite: the model's dtype overflowed; use bfloat16 or float32"
            )
        yield Trajectories(np.stack(kept, axis=1), final)
