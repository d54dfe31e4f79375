"""How a model is sampled: noise processes, steppers, guidance, and prompts to pictures."""

from ditq.sampling.generate import Picture, Settings, denoised, generate, settings_for
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import PROCESSES, NoiseProcess, Sigmas, noise_of
from ditq.sampling.steppers import STEPPERS, Latents, Stepper, noise, sample

__all__ = [
    "PROCESSES",
    "STEPPERS",
    "Denoiser",
    "Latents",
    "NoiseProcess",
    "Picture",
    "Settings",
    "Sigmas",
    "Stepper",
    "denoised",
    "generate",
    "noise",
    "noise_of",
    "sample",
    "settings_for",
]
