"""Reading a folder of calibration pictures back: every recorded latent, with what the model was given beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32

from ditq.calibration.digests import Digests, check_digest, read_digests
from ditq.calibration.drawn_by import NAME, DrawnBy, check_weights, read_drawn_by
from ditq.calibration.manifest import read_manifest
from ditq.calibration.samples import read_sample, sample_file
from ditq.calibration.stored import MADE_BY, check_array, made_again_by
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
    drawn_by: DrawnBy | None = None
    """The network that drew them; None where an older release did not say."""
    digests: Digests = field(default_factory=Digests)
    """Of what was written, where it says."""

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
        found = [self._latent(image, step) for image in images]
        for image, x in zip(images, found, strict=True):
            if x.shape != found[0].shape:
                path = sample_file(self.folder / "samples", image, step)
                expected = f"{found[0].shape} as of image {images[0]}"
                raise UserError(f"{path}: x", got=f"shape {x.shape}", expected=expected)
        return np.concatenate(found)

    def conditioning(self, images: Sequence[int]) -> Conditioning:
        """Rows [prompts, negatives] of these pictures, or the prompts alone where no guidance was used."""
        negative = len(self.prompts) - 1
        rows = [image % negative for image in images]
        if self.guided:
            rows += [negative] * len(images)
        return self.prompts.rows(rows)

    def _latent(self, image: int, step: int) -> np.ndarray:
        shape = None if self.drawn_by is None else self.drawn_by.latents
        digest = self.digests.sample(image, step)
        return read_sample(self.folder, self.manifest, image, step, shape, digest).astype(np.float32)


def read_images(folder: Path) -> ImageSet:
    """The calibration pictures of a folder. Raises UserError for another kind of folder, or an unfinished one."""
    manifest = read_manifest(folder)
    path = folder / "conditioning.npz"
    with made_again_by(MADE_BY):
        arrays = read_npz(path)
    known = [one.name for one in fields(Conditioning)]
    with made_again_by(MADE_BY):
        for name, array in arrays.items():
            check_array(path, name, array, (None,) * max(1, array.ndim), "float32")
    if "tokens" not in arrays or not set(arrays) <= set(known):
        raise UserError(
            str(path),
            got=", ".join(arrays) or "no arrays",
            expected=f"tokens, and no others than {', '.join(known)}, as generate_calibration_data writes",
        )
    prompts, given = manifest["prompts"], len(arrays["tokens"]) - 1
    for name, array in arrays.items():
        if len(array) != given + 1:
            raise UserError(
                f"{path}: {name}", got=f"{len(array)} rows", expected=f"{given + 1} as tokens has"
            )
    if not 1 <= given <= len(prompts) or prompts[given:] != prompts[:-given]:
        raise UserError(
            str(path),
            got=f"{given + 1} rows",
            expected="one per prompt that the pictures repeat, and the negative",
        )
    digests = read_digests(folder)
    with made_again_by(MADE_BY):
        check_digest(str(path), arrays, digests.conditioning)
    ordered = {name: mx.array(arrays[name]) for name in known if name in arrays}
    return ImageSet(folder, manifest, Conditioning(**ordered), read_drawn_by(folder), digests)


def check_network(images: ImageSet, network: Network) -> None:
    """Raises UserError when these pictures were drawn with other weights than those of the float `network`."""
    if images.drawn_by is not None:
        check_weights(images.folder / NAME, images.drawn_by.dtype, images.drawn_by.weights, network)


def check_model(images: ImageSet, model: TextToImage) -> None:
    """Raises UserError when these pictures were drawn by another model, or their latents are not of its shape."""
    if images.manifest["model"] != model.name:
        raise UserError(
            f"--model {model.name}", got=f"calibration data of {images.manifest['model']} in {images.folder}"
        )
    sides = (images.manifest["height"], images.manifest["width"])
    wanted = (*(side // model.geometry.factor for side in sides), model.geometry.latent_channels)
    if images.drawn_by is not None and images.drawn_by.latents != wanted:
        raise UserError(
            f"{images.folder / NAME}: latents",
            got=str(images.drawn_by.latents),
            expected=f"{wanted}, {sides[0]} x {sides[1]} pixels of {model.name}",
        )
    for name, width in (("tokens", model.geometry.text_dim), ("pooled", model.geometry.pooled_dim)):
        array = images.prompts.arrays.get(name)
        found = None if array is None else array.shape[-1]
        if found != width:
            path = images.folder / "conditioning.npz"
            raise UserError(
                f"{path}: {name}", got=f"{found} features", expected=f"{width} as {model.name} has"
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
