"""Reading a folder of calibration pictures back: every recorded latent, with what the model was given beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32

from ditq.calibration.images import read_manifest
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_npz
from ditq.models.base import Conditioning, Network, TextToImage
from ditq.sampling.schedules import noise_of


@dataclass(frozen=True)
class ImageSet:
    """The recorded trajectories of a folder, read sample by sample as they are asked for."""

    folder: Path
    manifest: dict[str, Any]
    prompts: Conditioning
    """One row per prompt that was given, in the pictures' order; the last is the negative."""

    @property
    def sigmas(self) -> list[float]:
        """The noise level of each recorded step."""
        return self.manifest["sigmas"][:-1]

    @property
    def guided(self) -> bool:
        """Whether the negative ran beside each prompt."""
        return self.manifest["cfg_weight"] > 1

    @property
    def digest(self) -> str:
        """What stands for the folder in plans and manifests: its settings and its conditioning."""
        arrays = [np.array(array).tobytes() for array in self.prompts.arrays.values()]
        return plan.digest(repr(sorted(self.manifest.items())), *arrays)

    def timesteps(self, steps: Sequence[int]) -> Float32[np.ndarray, "steps"]:
        """What the network was told of the noise levels of these steps."""
        sigmas = np.array([self.sigmas[step] for step in steps], np.float64)
        return noise_of(self.manifest).timesteps(sigmas).astype(np.float32)

    def latents(
        self, images: Sequence[int], step: int
    ) -> Float32[np.ndarray, "images height width channels"]:
        """x of these pictures at one step. Raises UserError for a sample that is missing or not that step's."""
        return np.concatenate([self._latent(image, step) for image in images])

    def conditioning(self, images: Sequence[int]) -> Conditioning:
        """Rows [prompts, negatives] of these pictures, or the prompts alone where no guidance was used."""
        negative = len(self.prompts) - 1
        rows = [image % negative for image in images]
        if self.guided:
            rows += [negative] * len(images)
        return self.prompts.rows(rows)

    def _latent(self, image: int, step: int) -> np.ndarray:
        path = self.folder / "samples" / f"{image:04d}_{step:03d}.npz"
        sample = read_npz(path)
        found = tuple(int(sample[name]) if name in sample else None for name in ("image_id", "step_index"))
        if found != (image, step) or "x" not in sample:
            raise UserError(
                str(path), got=f"image {found[0]}, step {found[1]}", expected=f"image {image}, step {step}"
            )
        return sample["x"].astype(np.float32)


def read_images(folder: Path) -> ImageSet:
    """The calibration pictures of a folder. Raises UserError for another kind of folder, or an unfinished one."""
    manifest = read_manifest(folder)
    path = folder / "conditioning.npz"
    arrays = read_npz(path)
    known = [field.name for field in fields(Conditioning)]
    if "tokens" not in arrays or not set(arrays) <= set(known):
        raise UserError(
            str(path),
            got=", ".join(arrays) or "no arrays",
            expected=f"tokens, and no others than {', '.join(known)}, as generate_calibration_data writes",
        )
    prompts, given = manifest["prompts"], len(arrays["tokens"]) - 1
    if not 1 <= given <= len(prompts) or prompts[given:] != prompts[:-given]:
        raise UserError(
            str(path),
            got=f"{given + 1} rows",
            expected="one per prompt that the pictures repeat, and the negative",
        )
    ordered = {name: mx.array(arrays[name]) for name in known if name in arrays}
    return ImageSet(folder, manifest, Conditioning(**ordered))


def check_model(images: ImageSet, model: TextToImage) -> None:
    """Raises UserError when these pictures were drawn by another model."""
    if images.manifest["model"] != model.name:
        raise UserError(
            f"--model {model.name}", got=f"calibration data of {images.manifest['model']} in {images.folder}"
        )


def replay_inputs(
    network: Network, images: ImageSet, chosen: Sequence[int], step: int
) -> tuple[mx.array, dict[str, mx.array]]:
    """What the network was given for the chosen pictures at one step, rows [prompts, negatives]: latents and the rest.

    The latents are in the network's dtype; nothing is evaluated.
    """
    conditioning = images.conditioning(chosen)
    x = mx.array(images.latents(chosen, step)).astype(network.dtype)
    inputs = network.prepare(conditioning, mx.array(images.timesteps([step])))
    return mx.concatenate([x] * (len(conditioning) // len(chosen))), inputs.at(0)


def replay(network: Network, images: ImageSet, chosen: Sequence[int], step: int) -> mx.array:
    """The predictions for the chosen pictures at one step, rows [prompts, negatives]; not evaluated."""
    latents, inputs = replay_inputs(network, images, chosen, step)
    return network(latents, **inputs)
