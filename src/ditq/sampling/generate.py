"""Prompts to pictures: settings checked once, text encoded once, then batch after batch denoised and decoded."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import mlx.core as mx
import numpy as np
from jaxtyping import UInt8

from ditq.core.errors import DitqError, UserError
from ditq.models.base import TextToImage
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import SCHEDULES, Sigmas
from ditq.sampling.steppers import Latents, euler, noise

Picture = UInt8[np.ndarray, "height width 3"]


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

    @property
    def sigmas(self) -> Sigmas:
        """The noise levels, `steps + 1` of them."""
        return SCHEDULES[self.schedule](self.steps, self.shift)

    def as_text(self) -> dict[str, str]:
        """The settings as the text chunks of a PNG."""
        return {name: str(value) for name, value in asdict(self).items()}


def settings_for(
    model: TextToImage,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    shift: float | None = None,
    schedule: str | None = None,
    negative: str = "",
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
    )
    unit = model.factor * model.config.patch_size
    largest = unit * model.config.max_latent_resolution
    for side in ("height", "width"):
        pixels = getattr(settings, side)
        if pixels % unit or not unit <= pixels <= largest:
            near = min(max(unit, round(pixels / unit) * unit), largest)
            expected = f"a multiple of {unit} from {unit} to {largest} for {model.name}"
            raise UserError(f"picture {side}", got=pixels, expected=expected, remedy=f"{near} is the nearest")
    if settings.steps < 1:
        raise UserError("steps", got=settings.steps, expected="at least 1")
    if not math.isfinite(settings.guidance) or settings.guidance < 0:
        raise UserError(
            "guidance", got=settings.guidance, expected="a number from 0 up (1 or less: no guidance)"
        )
    if not math.isfinite(settings.shift) or settings.shift <= 0:
        raise UserError("sigma shift", got=settings.shift, expected="a number above 0")
    if settings.schedule not in SCHEDULES:
        raise UserError("schedule", got=settings.schedule, expected=" or ".join(SCHEDULES))
    return settings


def generate(
    model: TextToImage,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    batch_size: int = 1,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Picture]:
    """One picture per (prompt, seed), in order, each handed out when its batch is decoded.

    A picture depends on its prompt, seed and settings alone, up to the rounding of the matrix products of another
    batch size. `on_step()` is called after each denoise step of each batch. All prompts are encoded before the
    transformer is loaded. Raises DitqError when the latents overflow.
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
    height, width = settings.height // model.factor, settings.width // model.factor
    denoiser = Denoiser(model.transformer())
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        denoise = denoiser.run(prompted[rows], negative, settings.sigmas, settings.guidance)
        x = noise(seeds[rows], height, width, model.config.vae_latent_dim)
        latents = euler(denoise, x, settings.sigmas, lambda *_: on_step())
        if not mx.isfinite(latents).all().item():
            raise DitqError(
                "the latents are not finite: the model's dtype overflowed; use bfloat16 or float32"
            )
        yield latents
