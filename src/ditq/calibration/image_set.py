"""Reading a folder of calibration pictures back: every recorded latent, with what the model was given beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32

from ditq.calibration.images import read_manifest
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_npz
from ditq.models.base import Conditioning, TextToImage
from ditq.models.mmdit import MMDiT


@dataclass(frozen=True)
class ImageSet:
    """The recorded trajectories of a folder, read sample by sample as they are asked for."""

    folder: Path
    manifest: dict[str, Any]
    tokens: Float32[np.ndarray, "prompts text_tokens text_dim"]
    """One row per prompt that was given, in the pictures' order; the last is the negative."""
    pooled: Float32[np.ndarray, "prompts pooled_dim"]

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
        return plan.digest(repr(sorted(self.manifest.items())), self.tokens.tobytes(), self.pooled.tobytes())

    def latents(
        self, images: Sequence[int], step: int
    ) -> Float32[np.ndarray, "images height width channels"]:
        """x of these pictures at one step. Raises UserError for a sample that is missing or not that step's."""
        return np.concatenate([self._latent(image, step) for image in images])

    def conditioning(self, images: Sequence[int]) -> Conditioning:
        """Rows [prompts, negatives] of these pictures, or the prompts alone where no guidance was used."""
        negative = len(self.tokens) - 1
        rows = [image % negative for image in images]
        if self.guided:
            rows += [negative] * len(images)
        return Conditioning(mx.array(self.tokens[rows]), mx.array(self.pooled[rows]))

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
    for name in ("tokens", "pooled"):
        if name not in arrays:
            raise UserError(
                str(path), got=f"no {name}", expected="the conditioning of generate_calibration_data"
            )
    prompts, given = manifest["prompts"], len(arrays["tokens"]) - 1
    if not 1 <= given <= len(prompts) or prompts[given:] != prompts[:-given]:
        raise UserError(
            str(path),
            got=f"{given + 1} rows",
            expected="one per prompt that the pictures repeat, and the negative",
        )
    return ImageSet(folder, manifest, arrays["tokens"], arrays["pooled"])


def check_model(images: ImageSet, model: TextToImage) -> None:
    """Raises UserError when these pictures were drawn by another model."""
    if images.manifest["model"] != model.name:
        raise UserError(
            f"--model {model.name}", got=f"calibration data of {images.manifest['model']} in {images.folder}"
        )


def replay(mmdit: MMDiT, images: ImageSet, chosen: Sequence[int], step: int) -> mx.array:
    """The velocities of the chosen pictures at one step, rows [prompts, negatives]; not evaluated."""
    conditioning = images.conditioning(chosen)
    x = mx.array(images.latents(chosen, step)).astype(mmdit.dtype)
    modulation = mmdit.modulation(
        conditioning.pooled, mx.array([1000 * images.sigmas[step]], dtype=mx.float32)
    )
    latents = mx.concatenate([x] * (len(conditioning) // len(chosen)))
    return mmdit(latents, conditioning.tokens.astype(mmdit.dtype), modulation[0])
