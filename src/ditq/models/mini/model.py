"""`mini` behind the interface of every model."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, TypedDict, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, UInt8

from ditq.core.errors import UserError
from ditq.core.files import parsed, read_safetensors
from ditq.core.schema import FILLED, checked, within
from ditq.models.base import Conditioning, Defaults, Prediction
from ditq.models.folders import weight_files
from ditq.models.loading import Weights, load_weights_into, read_weights
from ditq.models.mini.classifier import Classifier, Judge, Labels
from ditq.models.mini.keys import check_keys
from ditq.models.mini.networks import Decoder, TextEncoder
from ditq.models.mini.words import Words
from ditq.models.mmdit import MMDiT, MMDiTConfig
from ditq.models.prompts import checked_prompts

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
MINI = MMDiTConfig(
    num_heads=6,
    depth_multimodal=5,
    hidden_size_override=192,
    max_latent_resolution=16,
    pooled_text_embed_dim=128,
    token_level_text_embed_dim=128,
)


class Vocabulary(TypedDict):
    """The words in the metadata of the weights' file."""

    known: Annotated[list[str], FILLED]
    aliases: dict[str, str]
    length: Annotated[int, within(1, 1000)]


WEIGHTS = Path(__file__).with_name("mini.safetensors")


class Mini:
    """Draws one of a few dozen things on one of a dozen backgrounds, 128x128 pixels, in seconds on a laptop's CPU.

    Implements `ditq.models.TextToImage`. The file holds `transformer.*`, `text_encoder.*`, `decoder.*` and
    `classifier.*` in float16, and the vocabulary as JSON in its metadata; `scripts/train_mini.py` writes it.
    """

    name = "mini"
    defaults = Defaults(size=128, steps=28, guidance=3.0, shift=1.0, schedule="uniform")
    geometry = MINI.geometry(factor=8, text_tokens=12)
    prediction: Prediction = "velocity"
    noise = "rectified-flow"

    def __init__(self, path: Path | None = None, dtype: mx.Dtype | None = None):
        self.path = path or WEIGHTS
        self.dtype = dtype or mx.float32
        self._network: MMDiT | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts; warns of words that `mini` does not know."""
        ids = self.words.ids(checked_prompts(prompts))
        encoder = TextEncoder(len(self.words.known), self.words.length, MINI.pooled_text_embed_dim)
        tokens, pooled = self._filled(encoder, "text_encoder", mx.float32)(mx.array(ids))
        return Conditioning(tokens, pooled)

    def network(self) -> MMDiT:
        """The diffusion transformer, loaded on the first call and kept."""
        if self._network is None:
            self._network = self._filled(MMDiT(MINI), "transformer", self.dtype)
        return self._network

    def skeleton(self) -> MMDiT:
        """A transformer of the same shapes with lazy random weights."""
        return MMDiT(MINI)

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents, one by one, so that none depends on those beside it."""
        pixels = [self._decoder(one[None]) for one in latents.astype(mx.float32)]
        return np.concatenate(
            [np.array(mx.clip(mx.round((one + 1) * 127.5), 0, 255).astype(mx.uint8)) for one in pixels]
        )

    @cached_property
    def words(self) -> Words:
        """The vocabulary of the weights' file."""
        vocabulary = self._metadata("words", Vocabulary, "vocabulary")
        return Words(tuple(vocabulary["known"]), vocabulary["aliases"], vocabulary["length"])

    @cached_property
    def judge(self) -> Judge:
        """The classifier of the weights' file, which says what a picture shows."""
        labels = self._metadata("labels", Labels, "names of the classifier's classes")
        classes = (labels["objects"], labels["backgrounds"], labels["colours"], labels["positions"])
        network = Classifier(*(len(names) for names in classes))
        return Judge(self._filled(network, "classifier", mx.float32), labels, self.words.aliases)

    def _metadata(self, key: str, shape: type[T], what: str) -> T:
        """The JSON under `key` in the file's metadata."""
        _ = self._weights  # a file of something else is told of as what it is
        metadata = read_safetensors(self._file)[1]
        try:
            value = parsed(metadata[key])
        except (KeyError, ValueError, RecursionError) as error:
            expected = "a file that train_mini.py exported"
            raise UserError(str(self._file), got=f"no {what}", expected=expected) from error
        return checked(value, shape, f"{self._file}: {key}")

    @cached_property
    def _weights(self) -> Weights:
        weights = read_weights(self._file)
        encoder = TextEncoder(1, 1, 1)
        networks = {"transformer.": self.skeleton(), "text_encoder.": encoder, "decoder.": Decoder()}
        check_keys(weights, networks, str(self._file))
        return weights

    @cached_property
    def _file(self) -> Path:
        """The file, also where `path` is a folder that holds it."""
        return weight_files(self.path)[0][0]

    @cached_property
    def _decoder(self) -> Decoder:
        return self._filled(Decoder(), "decoder", mx.float32)

    def _filled(self, module: M, part: str, dtype: mx.Dtype) -> M:
        prefix = f"{part}."
        weights = {
            key.removeprefix(prefix): value for key, value in self._weights.items() if key.startswith(prefix)
        }
        load_weights_into(module, weights, f"{self.path} ({part})", dtype)
        return module
