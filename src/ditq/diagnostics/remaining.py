"""Which part of an error of the prediction at one step is left at the end of the trajectory, by injected noise."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from ditq.calibration import ImageSet
from ditq.core.errors import DitqError
from ditq.models.base import Prediction, TextToImage
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import noise_of
from ditq.sampling.steppers import sample


class NoiseRuns:
    """Draws recorded pictures again from their noise: once as they are, then with something added at one step.

    What comes before that step is taken from the first run.
    """

    def __init__(self, model: TextToImage, images: ImageSet, chosen: Sequence[int]):
        manifest = images.manifest
        self.process = noise_of(manifest)
        self.prediction: Prediction = model.prediction
        self.sigmas = np.array(manifest["sigmas"], np.float64)
        self.sampler = manifest.get("sampler", "euler")
        prompts = images.conditioning(chosen)
        rows = len(chosen)
        negative = prompts[rows:] if images.guided else None
        self.denoise = Denoiser(model.network(), self.process).run(
            prompts[:rows], negative, self.sigmas, manifest["cfg_weight"]
        )
        self.start = mx.array(images.latents(chosen, 0))
        self.known: list[mx.array] = []
        """The predictions of the first run, call by call."""
        self.final = self._draw(None)

    def remaining(self, step: int, amplitude: float, seed: int) -> float:
        """Mean square of the final latents' change over that of the prediction, noise added to it at `step`.

        It is white, and its root mean square `amplitude` of the prediction's. Raises DitqError where latents are not
        finite.
        """
        added: list[mx.array] = []

        def disturb(predicted: mx.array) -> mx.array:
            if not added:
                noise = np.random.default_rng(seed).standard_normal(predicted.shape, dtype=np.float32)
                added.append(mx.array(noise) * amplitude * mx.sqrt(mx.square(predicted).mean()))
            return predicted + added[0]

        disturbed = self._draw((step, disturb))
        part = mx.square(disturbed - self.final).sum() / mx.square(added[0]).sum()
        found = float(np.array(part))
        if not (np.isfinite(found) and found > 0):
            raise DitqError(f"noise at step {step}: {found:g} of it is left at the end; use --dtype float32")
        return found

    def _draw(self, change: tuple[int, Callable[[mx.array], mx.array]] | None) -> mx.array:
        """The final latents; `change` is a step and what becomes of the predictions there."""
        calls = 0
        same = change is not None

        def denoise(x: mx.array, step: int) -> mx.array:
            nonlocal calls, same
            same = same and change is not None and step < change[0]
            predicted = self.known[calls] if same else self.denoise(x, step)
            calls += 1
            if change is None:
                self.known.append(predicted)
            elif step == change[0]:
                return change[1](predicted)
            return predicted

        return sample(
            denoise, self.start, self.sigmas, self.sampler, self.process, prediction=self.prediction
        )
