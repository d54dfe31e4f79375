"""A quantized model behind the interface of every model."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from jaxtyping import Float, UInt8

from ditq import capture
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import inject
from ditq.checkpoint.mlx_folder.description import read_config
from ditq.checkpoint.mlx_folder.folder import read_model
from ditq.core.errors import UserError
from ditq.models.base import Conditioning, Network, Prediction, TextToImage
from ditq.nn import Backend


class QuantizedModel:
    """`model` with `checkpoint` in its network: implements `ditq.models.TextToImage`.

    `model` itself stays as it is: its network's other parameters are shared, its own layers are not touched. So the
    float model and its quantized selves can be sampled side by side. Raises UserError for a checkpoint of another
    model, and, when the network is first used, for what does not fit.
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
        self.name, self.defaults, self.geometry = model.name, model.defaults, model.geometry
        self.prediction: Prediction = model.prediction
        self.noise, self.dtype = model.noise, model.dtype
        self._network: Network | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts."""
        return self.float_model.encode(prompts)

    def network(self) -> Network:
        """The network with the quantized layers, made on the first call and kept."""
        if self._network is None:
            self._network = self._made()
        return self._network

    def skeleton(self) -> Network:
        """The float network's shapes; nothing is allocated."""
        return self.float_model.skeleton()

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents."""
        return self.float_model.decode(latents)

    def _made(self) -> Network:
        network = capture.sharing(self.float_model.network())
        inject(network, self.checkpoint, self.activations, self.backend)
        return network


class FolderModel(QuantizedModel):
    """The quantized model of a checkpoint folder, whose network comes from the folder alone.

    `model` gives the text encoders and the decoder; its float network is never loaded.
    """

    def __init__(
        self, model: TextToImage, folder: Path, activations: bool = True, backend: Backend | None = None
    ):
        nothing_yet = QuantizedCheckpoint(read_config(folder)["model"], {})
        super().__init__(model, nothing_yet, activations, backend)
        self.folder = folder

    def _made(self) -> Network:
        return read_model(self.folder, self.activations, self.backend, self.dtype)
