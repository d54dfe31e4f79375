"""A model in a notebook: it draws, and says what it is."""

import math
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from ditq import models
from ditq.cli.progress import Progress
from ditq.core.errors import UserError
from ditq.models.base import TextToImage
from ditq.models.cost import parameter_count
from ditq.notebook.arguments import names_arguments
from ditq.notebook.pictures import Pictures
from ditq.sampling.generate import Settings, generate, settings_for


@names_arguments
def load(
    name: str = "mini",
    path: str | Path | None = None,
    dtype: mx.Dtype | None = None,
    text_encoders: str = "all",
) -> "Model":
    """The text-to-image model called `name`; its weights are read when they are first needed.

    `path` is a local folder in place of the download, `dtype` the network's (None: the model's own choice for this
    device), `text_encoders` "all", or "clip" to leave T5 out. Raises UserError for an unknown name, and for a gated or
    absent model.
    """
    return Model(models.load(name, path, dtype, text_encoders))


class Model:
    """A text-to-image model."""

    def __init__(self, inner: TextToImage):
        self.inner = inner
        """The model as ditq's packages know it."""

    @property
    def name(self) -> str:
        """What it is called in commands and files."""
        return self.inner.name

    @names_arguments
    def generate(
        self,
        prompts: str | Sequence[str],
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        size: int | tuple[int, int] | None = None,
        negative: str = "",
        batch_size: int = 4,
    ) -> "Image.Image | Pictures":
        """The picture of a prompt as a PIL image, or the `Pictures` of several.

        Picture i has seed `seed` + i. `size` is the side in pixels, or (width, height). What is not given is the
        model's own. Raises UserError for settings that the model cannot sample.
        """
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        if not several or any(not prompt.strip() for prompt in several):
            raise UserError("prompts", got="an empty one" if several else "none", expected="words")
        settings = settings_from(self.inner, steps, guidance, size, negative)
        batches = math.ceil(len(several) / batch_size)
        with Progress(batches * settings.steps, "step", self.name) as bar:
            seeds = [seed + i for i in range(len(several))]
            drawn = list(generate(self.inner, several, seeds, settings, batch_size, bar.advance))
        pictures = Pictures(np.stack(drawn), several)
        return pictures[0] if isinstance(prompts, str) else pictures

    def __repr__(self) -> str:
        network, defaults = self.inner.skeleton(), self.inner.defaults
        return (
            f"{self.name}: {network.family} of {parameter_count(network) / 1e6:,.1f} M parameters, "
            f"{len(network.anatomy.blocks)} blocks; {defaults.size}x{defaults.size} pixels, {defaults.steps} steps, "
            f"guidance {defaults.guidance:g}"
        )


def settings_from(
    model: TextToImage,
    steps: int | None = None,
    guidance: float | None = None,
    size: int | tuple[int, int] | None = None,
    negative: str = "",
) -> Settings:
    """The sampler's settings; `size` is the side in pixels, or (width, height)."""
    width, height = (size, size) if size is None or isinstance(size, int) else size
    return settings_for(model, height, width, steps, guidance, negative=negative)


def inner_of(model: "Model | TextToImage") -> TextToImage:
    """The model as ditq's packages know it."""
    return model.inner if isinstance(model, Model) else model
