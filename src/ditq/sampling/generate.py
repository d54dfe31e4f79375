"""Prompts to pictures: settings checked once, text encoded once, then batch after batch denoised and decoded."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import UInt8

from ditq.core.errors import DitqError, UserError
from ditq.models.base import Geometry, TextToImage
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import PROCESSES, NoiseProcess, Sigmas
from ditq.sampling.steppers import STEPPERS, Latents, noise, sample

Picture = UInt8[np.ndarray, "height width 3"]
UNRECORDED = {"sampler": "euler", "noise": "rectified-flow"}
"""What every file meant before there was a choice: left out of what is recorded."""


@dataclass(frozen=True)
class Settings:
    """How pictures are sampled; `settings_for` fills it from a model's defaults and checks it."""

    height: int
    width: int
    steps: int
    guidance: float
    shift: float
    schedule: str
    negative: str = ""
    sampler: str = "euler"
    """A name of `STEPPERS`."""
    noise: str = "rectified-flow"
    """The model's noise process, a name of `PROCESSES`."""

    @property
    def process(self) -> NoiseProcess:
        """The model's noise process."""
        return PROCESSES[self.noise]

    @property
    def sigmas(self) -> Sigmas:
        """The noise levels, `steps + 1` of them."""
        return self.process.grids[self.schedule](self.steps, self.shift)

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int]:
        """Height, width and channels of the latents."""
        return self.height // geometry.factor, self.width // geometry.factor, geometry.latent_channels

    def recorded(self) -> dict[str, Any]:
        """The settings as files keep them; sampler and noise process only where they are not the usual ones."""
        return {name: value for name, value in asdict(self).items() if UNRECORDED.get(name) != value}

    def as_text(self) -> dict[str, str]:
        """The settings as the text chunks of a PNG."""
        return {name: str(value) for name, value in self.recorded().items()}


def settings_for(
    model: TextToImage,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    shift: float | None = None,
    schedule: str | None = None,
    negative: str = "",
    sampler: str | None = None,
) -> Settings:
    """The model's defaults with what is given in their place. Raises UserError for what the model cannot sample."""
    defaults = model.defaults
    settings = Settings(
        height=defaults.size if height is None else height,
        width=defaults.size if width is None else width,
        steps=defaults.steps if steps is None else steps,
        guidance=defaults.guidance if guidance is None else guidance,
        shift=defaults.shift if shift is None else shift,
        schedule=defaults.schedule if schedule is None else schedule,
        negative=negative,
        sampler=defaults.sampler if sampler is None else sampler,
        noise=model.noise,
    )
    for side in ("height", "width"):
        _check_side(model, side, getattr(settings, side))
    _check_steps(settings)
    if not math.isfinite(settings.guidance) or settings.guidance < 0:
        raise UserError(
            "guidance", got=settings.guidance, expected="a number from 0 up (1 or less: no guidance)"
        )
    if settings.sampler not in STEPPERS:
        raise UserError("sampler", got=settings.sampler, expected=" or ".join(STEPPERS))
    return settings


def _check_side(model: TextToImage, side: str, pixels: int) -> None:
    """Raises UserError for a side that no picture of the model can have."""
    geometry = model.geometry
    unit, largest = geometry.factor * geometry.unit, geometry.factor * geometry.largest
    if pixels % unit or not unit <= pixels <= largest:
        near = min(max(unit, round(pixels / unit) * unit), largest)
        expected = f"a multiple of {unit} from {unit} to {largest} for {model.name}"
        raise UserError(f"picture {side}", got=pixels, expected=expected, remedy=f"{near} is the nearest")


def _check_steps(settings: Settings) -> None:
    """Raises UserError for a grid of noise levels that the noise process does not have."""
    process = settings.process
    most = process.most_steps
    if settings.steps < 1 or (most is not None and settings.steps > most):
        expected = "at least 1" if most is None else f"from 1 to {most}"
        raise UserError("steps", got=settings.steps, expected=expected)
    if not math.isfinite(settings.shift) or settings.shift <= 0:
        raise UserError("sigma shift", got=settings.shift, expected="a number above 0")
    if settings.shift != 1 and not process.shifts:
        raise UserError(
            "sigma shift",
            got=settings.shift,
            expected=f"1: the noise levels of {process.name} are not shifted",
        )
    if settings.schedule not in process.grids:
        raise UserError("schedule", got=settings.schedule, expected=" or ".join(process.grids))


def generate(
    model: TextToImage,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    batch_size: int = 1,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Picture]:
    """One picture per (prompt, seed), in order, each handed out when its batch is decoded.

    A picture depends on its prompt, seed and settings alone; without quantized activations up to the rounding of the
    matrix products of another batch size. `on_step()` is called after each denoise step of each batch. All prompts are
    encoded before the network is loaded. Raises DitqError when the latents overflow.
    """
    for latents in denoised(model, prompts, seeds, settings, batch_size, on_step):
        yield from model.decode(latents)


def denoised(
    model: TextToImage,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    batch_size: int = 1,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Latents]:
    """The final latents of `generate`'s pictures, batch after batch, before they are decoded."""
    conditioning = model.encode([*prompts, settings.negative])
    prompted, negative = conditioning[:-1], conditioning[-1:]
    process, sigmas = settings.process, settings.sigmas
    denoiser = Denoiser(model.network(), process)
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        denoise = denoiser.run(prompted[rows], negative, sigmas, settings.guidance)
        x = noise(seeds[rows], *settings.latent_shape(model.geometry))
        latents = sample(
            denoise, x, sigmas, settings.sampler, process, lambda *_: on_step(), model.prediction
        )
        if not mx.isfinite(latents).all().item():
            raise DitqError(
                "the latents are not finite: the model's dtype overflowed; use bfloat16 or float32"
            )
        yield latents
