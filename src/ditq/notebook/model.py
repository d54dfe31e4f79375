"""A model in a notebook: it draws, and says what it is."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from ditq import checkpoint, models
from ditq.cli.flags import DTYPES
from ditq.cli.progress import Progress
from ditq.core.errors import UserError
from ditq.models.base import TextToImage
from ditq.models.cost import parameter_count
from ditq.notebook.arguments import checked_arguments
from ditq.notebook.checks import refused
from ditq.notebook.pictures import Pictures
from ditq.sampling.generate import Settings, generate, settings_for


@checked_arguments()
def load(
    name: str = "mini",
    path: str | Path | None = None,
    dtype: mx.Dtype | str | None = None,
    text_encoders: str = "all",
) -> "Model":
    """The text-to-image model called `name`; its weights are read when they are first needed.

    `path` is a local folder in place of the download, `dtype` the network's, such as mx.float16 or "float16" (None: the
    model's own choice for this device), `text_encoders` "all", or "clip" to leave T5 out. Raises UserError for an
    unknown name, and for a gated or absent model.
    """
    chosen = DTYPES[dtype] if isinstance(dtype, str) else dtype
    return Model(models.load(name, path, chosen, text_encoders))


class Model:
    """A text-to-image model."""

    def __init__(self, inner: TextToImage):
        self.inner = inner
        """The model as ditq's packages know it."""

    @property
    def name(self) -> str:
        """What it is called in commands and files."""
        return self.inner.name

    @checked_arguments()
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
        several = listed(prompts)
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


def listed(prompts: str | Sequence[str]) -> list[str]:
    """The prompts; a single text is one."""
    return [prompts] if isinstance(prompts, str) else list(prompts)


def float_model(argument: str, value: Any) -> "Model | TextToImage":
    """The check of a float model."""
    if not isinstance(value, Model | TextToImage):
        raise refused(argument, value, "a model", "give what ditq.load returns")
    if isinstance(inner_of(value), checkpoint.QuantizedModel):
        remedy = "give the model that it was made from, its float_model"
        raise UserError(argument, got="a quantized model", expected="a float model", remedy=remedy)
    return value


def inner_of(model: "Model | TextToImage") -> TextToImage:
    """The model as ditq's packages know it."""
    return model.inner if isinstance(model, Model) else model
