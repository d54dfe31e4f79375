"""A quantized model behind the interface of every model."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from jaxtyping import Float, UInt8

from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import inject
from ditq.checkpoint.mlx_folder.folder import read_config, read_model
from ditq.core.errors import UserError
from ditq.models import Conditioning, TextToImage
from ditq.models.mmdit import MMDiT
from ditq.nn import Backend


class QuantizedModel:
    """`model` with `checkpoint` in its transformer: implements `ditq.models.TextToImage`.

    `model` itself stays as it is: its transformer's other parameters are shared, its linear layers are not touched. So
    the float model and its quantized selves can be sampled side by side. Raises UserError for a checkpoint of another
    model, and, when the transformer is first used, for what does not fit.
    """

    def __init__(
        self,
        model: TextToImage,
        checkpoint: QuantizedCheckpoint,
        activations: bool = True,
        backend: Backend | None = None,
    ):
        if checkpoint.model != model.name:
            raise UserError("checkpoint", got=f"one of {checkpoint.model}", expected=f"one of {model.name}")
        self.float_model, self.checkpoint = model, checkpoint
        self.activations = activations
        self.backend: Backend | None = backend
        self.name, self.config, self.defaults = model.name, model.config, model.defaults
        self.factor, self.text_tokens = model.factor, model.text_tokens
        self._transformer: MMDiT | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts."""
        return self.float_model.encode(prompts)

    def transformer(self) -> MMDiT:
        """The transformer with the quantized layers, made on the first call and kept."""
        if self._transformer is None:
            self._transformer = self._made()
        return self._transformer

    def _made(self) -> MMDiT:
        transformer = sharing(self.float_model.transformer())
        inject(transformer, self.checkpoint, self.activations, self.backend)
        return transformer

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents."""
        return self.float_model.decode(latents)


class FolderModel(QuantizedModel):
    """The quantized model of a checkpoint folder, whose transformer comes from the folder alone.

    `model` gives the text encoders and the decoder; its float transformer is never loaded.
    """

    def __init__(
        self, model: TextToImage, folder: Path, activations: bool = True, backend: Backend | None = None
    ):
        nothing_yet = QuantizedCheckpoint(read_config(folder)["model"], {})
        super().__init__(model, nothing_yet, activations, backend)
        self.folder = folder

    def _made(self) -> MMDiT:
        return read_model(self.folder, self.activations, self.backend)


def sharing(mmdit: MMDiT) -> MMDiT:
    """Another module of the same parameters, so that replacing layers of one leaves the other alone."""
    twin = MMDiT(mmdit.config)  # its random weights are lazy: they are never computed
    twin.update(mmdit.parameters())
    return twin
