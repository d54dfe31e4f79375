"""Calibration data in a notebook: recorded trajectories, in a folder that is kept or one that goes with the object."""

import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from ditq.calibration import ImageRecipe, ImageSet, collect_images, default_prompts, read_images
from ditq.cli.progress import Progress
from ditq.core.files import read_image
from ditq.models.base import TextToImage
from ditq.notebook.arguments import checked_arguments
from ditq.notebook.folders import check_own
from ditq.notebook.model import Model, float_model, inner_of, listed, settings_from
from ditq.notebook.pictures import Pictures
from ditq.quantization.amounts import amounts_for

SHOWN = 8
"""Pictures that a notebook shows."""


class CalibrationData:
    """Pictures that a model drew, with every latent on the way to them."""

    def __init__(self, images: ImageSet, temporary: bool = False):
        """With `temporary` the folder is removed with this object."""
        self.images = images
        if temporary:
            weakref.finalize(self, shutil.rmtree, images.folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """Where the samples lie; a temporary folder goes with this object."""
        return self.images.folder

    @property
    def prompts(self) -> list[str]:
        """One per picture."""
        return self.images.manifest["prompts"]

    @checked_arguments()
    def pictures(self, count: int | None = None) -> Pictures:
        """The first pictures, or all."""
        chosen = range(len(self) if count is None else min(count, len(self)))
        arrays = [read_image(self.folder / "images" / f"{i:04d}.png")[0] for i in chosen]
        return Pictures(np.stack(arrays), self.prompts[: len(chosen)])

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        manifest = self.images.manifest
        return (
            f"{len(self)} trajectories of {manifest['num_steps']} steps of {manifest['model']}: {self.folder}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.pictures(SHOWN)._repr_html_()}"


@checked_arguments(model=float_model)
def calibrate(
    model: "Model | TextToImage",
    images: int | None = None,
    prompts: str | Sequence[str] | None = None,
    folder: str | Path | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> CalibrationData:
    """Draws `images` pictures and records every latent of their trajectories: what all calibrated methods learn from.

    What is not given is by model, as in the pipeline. `prompts` repeat when there are fewer than pictures (None: ditq's
    own). In a `folder` the data stays, and a call that was interrupted goes on where it stopped; without one it goes
    with the object. Raises UserError for a folder that was begun with other settings, or holds other files.
    """
    check_own("folder", folder, "ditq.calibrate", "manifest.json")
    inner = inner_of(model)
    amounts = amounts_for(inner.name)
    wanted = amounts.cfg_weight if guidance is None else guidance
    settings = settings_from(inner, amounts.steps if steps is None else steps, wanted, size)
    recipe = ImageRecipe(
        amounts.images if images is None else images,
        seed,
        amounts.batch_size if batch_size is None else batch_size,
    )
    where = Path(mkdtemp(prefix="ditq-") if folder is None else folder)
    given = listed(prompts) if prompts is not None else default_prompts(inner.name)
    with Progress(recipe.num_images * settings.steps, "step", "calibration") as bar:
        collect_images(inner, given, recipe, settings, where, True, bar.advance)
    return CalibrationData(read_images(where), temporary=folder is None)
