"""The cache of block inputs and outputs: what a block-by-block method reconstructs, and what replays one block.

metadata.json                       kind, version, model, the samples, shapes, dtype; one run's plan
samples/{image:04d}_{step:03d}.npz  the arrays at every block boundary, for one picture at one step
    mm{N}__{name}_in   (rows, ...)  what is new before block N, which block N - 1 wrote: stored once
    mm{N}__{name}_out               what the last block wrote
    the conditioning that the blocks are given (MMDiT: pooled) (rows, ...) float32
    timestep, sigma float32, step_index, image_id int32
samples_quantized/, metadata_quantized.json         the same, as quantized blocks pass it on

Rows are the prompt and, with guidance, the negative. An MMDiT carries `image` and `text`; its last block hands its text
on as it came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Int

from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_json, read_npz, read_stored_json
from ditq.models.base import Network
from ditq.models.state import BlockState, Flow

KIND, QUANTIZED, VERSION = "ditq.block_cache", "ditq.quantized_block_cache", 2
FACTS = ("timestep", "sigma", "step_index", "image_id")
"""What each sample file holds beside arrays and conditioning."""
CONTENTS = ("metadata.json", "samples", "metadata_quantized.json", "samples_quantized")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""
Wanted = Sequence[int] | slice | Int[np.ndarray, "wanted"]
"""Which rows of a cache."""


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
    conditioning: dict[str, np.ndarray]
    """What `given` asks for, a row each."""

    @property
    def blocks(self) -> int:
        """The model's blocks; there is one boundary more."""
        return self.flow.blocks

    @property
    def rows_per_sample(self) -> int:
        """2 with guidance (prompt, negative), 1 without."""
        return self.meta["rows_per_sample"]

    @cached_property
    def flow(self) -> Flow:
        """Which block reads and writes what."""
        return flow_from(self.meta["flow"])

    def __len__(self) -> int:
        return len(self.timesteps)

    def state(self, boundary: int, rows: Wanted | None = None, quantized: bool = False) -> BlockState:
        """What is carried into block `boundary`, or at the last boundary out of the last block, float32.

        Of all rows or of some. `quantized` reads what came through quantized blocks, all those before the boundary.
        Every call reads the files anew. Raises UserError, naming file and array, for what is missing or misshapen.
        """
        wanted = np.arange(len(self))[slice(None) if rows is None else rows]
        folder = self._quantized(boundary) if quantized else self.folder / "samples"
        if not 0 <= boundary <= self.blocks:
            raise DitqError(
                f"boundary {boundary} of a model of {self.blocks} blocks: they are numbered from 0 to {self.blocks}"
            )
        carried = self.flow.carried(boundary)
        keys = {name: array_key(name, at, self.blocks) for name, at in carried.items()}
        shapes = {name: self._shape(name, at) for name, at in carried.items()}
        dtype = np.dtype(self.meta["storage_dtype"])
        gathered = {name: np.empty((len(wanted), *shape[1:]), dtype) for name, shape in shapes.items()}
        for sample in np.unique(wanted // self.rows_per_sample):
            path = sample_file(folder, *self.samples[sample])
            arrays = read_npz(path, list(keys.values()))
            places = np.flatnonzero(wanted // self.rows_per_sample == sample)
            for name, key in keys.items():
                self._check(path, key, arrays[key], shapes[name])
                gathered[name][places] = arrays[key][wanted[places] % self.rows_per_sample]
        return {name: mx.array(array).astype(mx.float32) for name, array in gathered.items()}

    def given(self, network: Network) -> BlockState:
        """What the network gives its blocks for every row, float32: computed anew from conditioning and timestep.

        Lazy: what is not read is not computed. Raises UserError for another model.
        """
        self.check_model(network)
        conditioning = {name: mx.array(array) for name, array in self.conditioning.items()}
        found = network.given(mx.array(self.timesteps), **conditioning)
        return {name: array.astype(mx.float32) for name, array in found.items()}

    def check_model(self, network: Network) -> None:
        """Raises UserError when `network` cannot be the one that was cached."""
        theirs = facts_of(network)
        mine = {name: self.meta[name] for name in theirs}
        for one, other in ((mine["model_config"], theirs["model_config"]), (mine, theirs)):
            differing = [name for name in other if name != "model_config" and one.get(name) != other[name]]
            if differing:
                raise UserError(
                    f"{self.folder}: a block cache of {self.meta['model']}",
                    got=f"{differing[0]} {one.get(differing[0])}",
                    expected=f"{other[differing[0]]} as in the model; is it another one?",
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

    def _shape(self, name: str, boundary: int) -> tuple[int, ...]:
        return (self.rows_per_sample, *self.meta["states"][boundary][name])

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
    meta = read_stored_json(folder / "metadata.json", KIND, VERSION, "cache_adaround_data")
    samples = [(image, step) for image, step in meta["samples"]]
    missing = missing_samples(folder / "samples", samples)
    if missing:
        raise UserError(
            str(folder),
            got=f"{len(samples) - len(missing)} of {len(samples)} samples",
            expected="all of them",
            remedy="finish it with cache_adaround_data --resume",
        )
    names = meta["given_by"]
    facts = [_facts(sample_file(folder / "samples", *sample), sample, names) for sample in samples]
    timesteps = np.repeat([np.float32(fact["timestep"]) for fact in facts], meta["rows_per_sample"])
    conditioning = {name: np.concatenate([fact[name] for fact in facts]) for name in names}
    return BlockCache(folder, meta, samples, timesteps, conditioning)


def facts_of(network: Network) -> dict[str, Any]:
    """What a cache's metadata keeps of the network, as JSON: family, shape, flow, and what `given` asks for."""
    flow, config = network.flow, asdict(network.config)
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    return {
        "family": network.family,
        "model_config": listed,
        "given_by": list(network.given_by),
        "flow": {
            "reads": [list(names) for names in flow.reads],
            "writes": [list(names) for names in flow.writes],
            "begun": list(flow.begun),
            "results": list(flow.results),
        },
    }


def flow_from(stored: Mapping[str, Any]) -> Flow:
    """The flow that `facts_of` stored."""
    reads, writes = (tuple(map(tuple, stored[name])) for name in ("reads", "writes"))
    return Flow(reads, writes, tuple(stored["begun"]), tuple(stored["results"]))


def missing_samples(folder: Path, samples: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The samples that have no file yet."""
    return [sample for sample in samples if not sample_file(folder, *sample).exists()]


def sample_file(folder: Path, image: int, step: int) -> Path:
    """Where the sample of one picture at one step lies."""
    return folder / f"{image:04d}_{step:03d}.npz"


def array_key(name: str, boundary: int, blocks: int) -> str:
    """The key of an array that is new at a boundary."""
    return f"mm{blocks - 1}__{name}_out" if boundary == blocks else f"mm{boundary}__{name}_in"


def _facts(path: Path, sample: tuple[int, int], names: Sequence[str]) -> dict[str, np.ndarray]:
    facts = read_npz(path, (*names, *FACTS))
    found = int(facts["image_id"]), int(facts["step_index"])
    if found != sample:
        raise UserError(
            str(path),
            got=f"image {found[0]}, step {found[1]}",
            expected=f"image {sample[0]}, step {sample[1]}",
        )
    return facts
