"""The cache of block inputs and outputs: what a block-by-block method reconstructs, and what replays one block.

metadata.json                       kind, version, model, the samples, shapes, dtype; one run's plan
samples/{image:04d}_{step:03d}.npz  both streams at every block boundary, for one picture at one step
    mm{N}__image_in   (rows, image_tokens, hidden)  input of block N, which is the output of block N - 1: stored once
    mm{N}__text_in    (rows, text_tokens, hidden)
    mm{N}__image_out, mm{N}__text_out               of the last block alone
    pooled (rows, pooled_dim) float32, timestep, sigma float32, step_index, image_id int32
samples_quantized/, metadata_quantized.json         the same, as quantized blocks pass it on

Rows are the prompt and, with guidance, the negative. The last block hands its text on as it came.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Int

from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_json, read_npz
from ditq.models.mmdit.model import MMDiT, MultiModalTransformerBlock

KIND, QUANTIZED, VERSION = "ditq.block_cache", "ditq.quantized_block_cache", 1
FACTS = ("pooled", "timestep", "sigma", "step_index", "image_id")
"""What each sample file holds beside the streams."""
CONTENTS = ("metadata.json", "samples", "metadata_quantized.json", "samples_quantized")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


Rows = Sequence[int] | slice | Int[np.ndarray, "wanted"]


@dataclass(frozen=True)
class Streams:
    """The two streams of tokens where one block ends and the next begins, float32."""

    image: Float[mx.array, "rows tokens hidden"]
    text: Float[mx.array, "rows text_tokens hidden"]


@dataclass(frozen=True)
class BlockCache:
    """A complete cache, read boundary by boundary as it is asked for.

    Row r is row `r % rows_per_sample` of sample `r // rows_per_sample`.
    """

    folder: Path
    meta: dict[str, Any]
    samples: list[tuple[int, int]]
    """(image, step) of each sample."""
    timesteps: Float32[np.ndarray, "rows"]
    pooled: Float32[np.ndarray, "rows pooled_dim"]

    @property
    def blocks(self) -> int:
        """The model's blocks; there is one boundary more."""
        return self.meta["blocks"]

    @property
    def rows_per_sample(self) -> int:
        """2 with guidance (prompt, negative), 1 without."""
        return self.meta["rows_per_sample"]

    def __len__(self) -> int:
        return len(self.timesteps)

    def streams(self, boundary: int, rows: Rows | None = None, quantized: bool = False) -> Streams:
        """What enters block `boundary`, or at the last boundary leaves the last block; of all rows or of some.

        `quantized` reads what came through quantized blocks, all those before the boundary. Every call reads the files
        anew. Raises UserError, naming file and array, for what is missing or misshapen.
        """
        wanted = np.arange(len(self))[slice(None) if rows is None else rows]
        folder = self._quantized(boundary) if quantized else self.folder / "samples"
        keys, shapes = boundary_keys(boundary, self.blocks), self._shapes()
        gathered = [
            np.empty((len(wanted), *shape[1:]), np.dtype(self.meta["storage_dtype"])) for shape in shapes
        ]
        for sample in np.unique(wanted // self.rows_per_sample):
            path = sample_file(folder, *self.samples[sample])
            arrays = read_npz(path, keys)
            places = np.flatnonzero(wanted // self.rows_per_sample == sample)
            for out, key, shape in zip(gathered, keys, shapes, strict=True):
                self._check(path, key, arrays[key], shape)
                out[places] = arrays[key][wanted[places] % self.rows_per_sample]
        image, text = (mx.array(array).astype(mx.float32) for array in gathered)
        return Streams(image, text)

    def modulation(self, mmdit: MMDiT, block: int) -> Float[mx.array, "rows chunks"]:
        """The shifts, scales and gates of one block for every row, side by side, float32.

        Computed anew from pooled text and timestep by the float model. Raises UserError for another model.
        """
        self.check_model(mmdit)
        condition = mmdit.condition(mx.array(self.pooled), mx.array(self.timesteps))
        return mmdit.multimodal_transformer_blocks[block].modulation(condition).astype(mx.float32)

    def check_model(self, mmdit: MMDiT) -> None:
        """Raises UserError when `mmdit` cannot be the model that was cached."""
        config = mmdit.config
        for what, found in (
            ("blocks", config.depth_multimodal),
            ("hidden", config.hidden_size),
            ("pooled_dim", config.pooled_text_embed_dim),
        ):
            if self.meta[what] != found:
                raise UserError(
                    f"{self.folder}: a block cache of {self.meta['model']}",
                    got=f"{what} {self.meta[what]}",
                    expected=f"{found} as in the model; is it another one?",
                )

    def _quantized(self, boundary: int) -> Path:
        """The folder of the quantized stream. Raises UserError unless it is whole and quantized up to the boundary."""
        folder, path = self.folder / "samples_quantized", self.folder / "metadata_quantized.json"
        remedy = (
            "run cache_adaround_data --stream quantized --adaround-output DIR, with --force if it ran before"
        )
        if not path.exists() or missing_samples(folder, self.samples):
            raise UserError(str(self.folder), got="no quantized stream, or a part of one", remedy=remedy)
        meta = read_json(path)
        ours = {**self.meta, "kind": QUANTIZED}
        differ = [field for field in ours if meta.get(field) != ours[field]]
        if differ:
            raise UserError(str(path), got=f"another {differ[0]} than in metadata.json", remedy=remedy)
        floats = [block for block in range(boundary) if str(block) not in meta["source"]]
        if floats:
            raise UserError(str(path), got=f"block {floats[0]} in float", expected="quantized", remedy=remedy)
        return folder

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rows, hidden = self.rows_per_sample, self.meta["hidden"]
        return (rows, self.meta["image_tokens"], hidden), (rows, self.meta["text_tokens"], hidden)

    def _check(self, path: Path, key: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != shape or array.dtype != self.meta["storage_dtype"]:
            raise UserError(
                f"{path}: {key}",
                got=f"{array.dtype}{array.shape}",
                expected=f"{self.meta['storage_dtype']}{shape} as in metadata.json",
            )


def read_block_cache(folder: Path) -> BlockCache:
    """The cache in `folder`.

    Raises UserError for another kind or version, and for samples that are missing, cut off or not what they are called.
    """
    path = folder / "metadata.json"
    meta = read_json(path)
    found = (meta.get("kind"), meta.get("version")) if isinstance(meta, dict) else (None, None)
    if found != (KIND, VERSION):
        raise UserError(
            str(path),
            got=f"{found[0]} version {found[1]}",
            expected=f"{KIND} version {VERSION}, as cache_adaround_data writes",
        )
    samples = [(image, step) for image, step in meta["samples"]]
    missing = missing_samples(folder / "samples", samples)
    if missing:
        raise UserError(
            str(folder),
            got=f"{len(samples) - len(missing)} of {len(samples)} samples",
            expected="all of them",
            remedy="finish it with cache_adaround_data --resume",
        )
    facts = [_facts(sample_file(folder / "samples", *sample), sample) for sample in samples]
    timesteps = np.repeat([np.float32(fact["timestep"]) for fact in facts], meta["rows_per_sample"])
    return BlockCache(folder, meta, samples, timesteps, np.concatenate([fact["pooled"] for fact in facts]))


def missing_samples(folder: Path, samples: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The samples that have no file yet."""
    return [sample for sample in samples if not sample_file(folder, *sample).exists()]


def sample_file(folder: Path, image: int, step: int) -> Path:
    """Where the sample of one picture at one step lies."""
    return folder / f"{image:04d}_{step:03d}.npz"


def boundary_keys(boundary: int, blocks: int) -> tuple[str, str]:
    """The names of the image and the text stream at a boundary. Raises DitqError beyond the last."""
    if not 0 <= boundary <= blocks:
        raise DitqError(
            f"boundary {boundary} of a model of {blocks} blocks: they are numbered from 0 to {blocks}"
        )
    if boundary == blocks:
        return f"mm{blocks - 1}__image_out", f"mm{blocks - 1}__text_out"
    return f"mm{boundary}__image_in", f"mm{boundary}__text_in"


def block_modulation(
    mmdit: MMDiT, block: int, modulation: Float[mx.array, "*rows modulation"]
) -> Float[mx.array, "*rows chunks"]:
    """The part of `MMDiT.modulation`'s rows that one block takes."""
    counts = [b.num_modulation_params for b in mmdit.multimodal_transformer_blocks[: block + 1]]
    hidden = mmdit.config.hidden_size
    return modulation[..., sum(counts[:-1]) * hidden : sum(counts) * hidden]


def run_block(
    block: MultiModalTransformerBlock, streams: Streams, modulation: Float[mx.array, "rows chunks"]
) -> Streams:
    """The streams after one block, of any rows with their modulation; differentiable, nothing is evaluated."""
    chunks = mx.split(modulation[:, None], block.num_modulation_params, axis=-1)
    return Streams(*block(streams.image, streams.text, *block.take_chunks(iter(chunks))))


def _facts(path: Path, sample: tuple[int, int]) -> dict[str, np.ndarray]:
    facts = read_npz(path, FACTS)
    found = int(facts["image_id"]), int(facts["step_index"])
    if found != sample:
        raise UserError(
            str(path),
            got=f"image {found[0]}, step {found[1]}",
            expected=f"image {sample[0]}, step {sample[1]}",
        )
    return facts
