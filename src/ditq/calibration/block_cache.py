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
from typing import Annotated, Any, Literal, TypedDict

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Int

from ditq.calibration.cached_rows import CachedRows
from ditq.calibration.drawn_by import check_weights
from ditq.calibration.samples import missing_samples, sample_file
from ditq.calibration.stored import check_array, check_place, made_again_by
from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_npz, read_stored_json
from ditq.core.plan import PRODUCER
from ditq.core.remedies import again
from ditq.core.schema import FILLED, at_least, checked
from ditq.models.base import Network
from ditq.models.state import BlockState, Flow, take_rows

MADE_BY = "cache_adaround_data"
KIND, QUANTIZED, VERSION = "ditq.block_cache", "ditq.quantized_block_cache", 2
FACTS = ("timestep", "sigma", "step_index", "image_id")
"""What each sample file holds beside arrays and conditioning."""
CONTENTS = ("metadata.json", "samples", "metadata_quantized.json", "samples_quantized")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


class _Flow(TypedDict):
    reads: list[list[str]]
    writes: list[list[str]]
    begun: list[str]
    results: list[str]


class Metadata(TypedDict):
    """What every reader of metadata.json needs."""

    model: str
    model_config: dict[str, Any]
    calibration: str
    storage_dtype: Literal["float16", "float32"]
    rows_per_sample: Literal[1, 2]
    given_by: list[str]
    flow: _Flow
    latents: tuple[Annotated[int, at_least(1)], Annotated[int, at_least(1)]]
    states: Annotated[list[dict[str, list[Annotated[int, at_least(1)]]]], FILLED]
    samples: Annotated[list[tuple[Annotated[int, at_least(0)], Annotated[int, at_least(0)]]], FILLED]


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
        return take_rows(self.stream(boundary, quantized), wanted)

    def stream(self, boundary: int, quantized: bool = False) -> dict[str, CachedRows]:
        """The same as `state`, left on disk: a row is read when it is asked for, and checked when it is read first."""
        folder = self._quantized(boundary) if quantized else self.folder / "samples"
        if not 0 <= boundary <= self.blocks:
            raise DitqError(
                f"boundary {boundary} of a model of {self.blocks} blocks: they are numbered from 0 to {self.blocks}"
            )
        made_by = f"{MADE_BY}{' --stream quantized --adaround-output DIR' if quantized else ''}"
        paths = [sample_file(folder, *sample) for sample in self.samples]
        return {
            name: CachedRows(
                paths,
                array_key(name, at, self.blocks),
                self._shape(name, at),
                self.meta["storage_dtype"],
                made_by,
            )
            for name, at in self.flow.carried(boundary).items()
        }

    def given(self, network: Network) -> BlockState:
        """What the network gives its blocks for every row, float32: computed anew from conditioning and timestep.

        Lazy: what is not read is not computed. Raises UserError for another model.
        """
        self._check_kind(network)
        conditioning = {name: mx.array(array) for name, array in self.conditioning.items()}
        found = network.given(mx.array(self.timesteps), **conditioning)
        return {name: array.astype(mx.float32) for name, array in found.items()}

    def check_model(self, network: Network, weights: bool = True) -> None:
        """Raises UserError when the float `network` is not the one that was cached; without `weights`, when some of
        its layers may have been replaced, by its kind and shape alone."""
        self._check_kind(network)
        if weights:
            known = self.meta.get("model_dtype"), self.meta.get("weights")
            check_weights(self.folder / "metadata.json", *known, network)

    def _check_kind(self, network: Network) -> None:
        theirs = facts_of(network)
        mine = {name: self.meta.get(name) or {} for name in theirs}
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
        meta = read_stored_json(path, QUANTIZED, VERSION, f"{MADE_BY} --stream quantized")
        source = checked(meta.get("source"), dict[str, str], f"{path}: source")
        ours = {**self.meta, "kind": QUANTIZED}
        differ = [field for field in ours if field != PRODUCER and meta.get(field) != ours[field]]
        if differ:
            raise UserError(str(path), got=f"another {differ[0]} than in metadata.json", remedy=remedy)
        floats = [block for block in range(boundary) if str(block) not in source]
        if floats:
            raise UserError(str(path), got=f"block {floats[0]} in float", expected="quantized", remedy=remedy)
        return folder

    def _shape(self, name: str, boundary: int) -> tuple[int, ...]:
        return (self.rows_per_sample, *self.meta["states"][boundary][name])


def read_block_cache(folder: Path) -> BlockCache:
    """The cache in `folder`.

    Raises UserError for another kind or version, and for samples that are missing, cut off or not what they are called.
    """
    meta = read_stored_json(folder / "metadata.json", KIND, VERSION, MADE_BY)
    _check_meta(folder / "metadata.json", meta)
    samples = [(image, step) for image, step in meta["samples"]]
    missing = missing_samples(folder / "samples", samples)
    if missing:
        raise UserError(
            str(folder),
            got=f"{len(samples) - len(missing)} of {len(samples)} samples",
            expected="all of them",
            remedy=again("cache_adaround_data"),
        )
    names = meta["given_by"]
    with made_again_by(MADE_BY):
        facts = [read_facts(folder / "samples", sample, meta) for sample in samples]
        for sample, fact in zip(samples, facts, strict=True):
            path = sample_file(folder / "samples", *sample)
            for name in names:
                check_array(path, name, fact[name], facts[0][name].shape, "float32", "the first sample")
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


def array_key(name: str, boundary: int, blocks: int) -> str:
    """The key of an array that is new at a boundary."""
    return f"mm{blocks - 1}__{name}_out" if boundary == blocks else f"mm{boundary}__{name}_in"


def read_facts(folder: Path, sample: tuple[int, int], meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a sample's file holds beside streams. Raises UserError for a file that is cut off or another sample's."""
    path = sample_file(folder, *sample)
    facts = read_npz(path, (*meta["given_by"], *FACTS))
    check_place(path, facts, sample)
    for name in meta["given_by"]:
        array = facts[name]
        wanted = (meta["rows_per_sample"], *(None for _ in array.shape[1:]))
        check_array(path, name, array, wanted, "float32", "metadata.json")
    return facts


def _check_meta(path: Path, meta: dict[str, Any]) -> None:
    """Raises UserError for metadata of another shape, or whose states are not those of its flow."""
    checked(meta, Metadata, str(path))
    flow = flow_from(meta["flow"])
    if len(flow.writes) != flow.blocks or not flow.blocks:
        expected = f"{flow.blocks} entries, at least 1, as reads has"
        raise UserError(f"{path}: flow: writes", got=f"{len(flow.writes)} entries", expected=expected)
    if len(meta["states"]) != flow.blocks + 1:
        expected = f"{flow.blocks + 1}, one for each boundary of {flow.blocks} blocks"
        raise UserError(f"{path}: states", got=f"{len(meta['states'])} entries", expected=expected)
    for boundary, state in enumerate(meta["states"]):
        if set(state) != set(flow.written(boundary)):
            expected = f"{', '.join(flow.written(boundary))}, as the flow says"
            raise UserError(
                f"{path}: states[{boundary}]", got=", ".join(state) or "nothing", expected=expected
            )
