"""The layers outside the blocks in a run: on which rows they are solved, and which rows judge them.

Whole prompts are held out, the same ones as for the blocks (`ditq.weights.block_error`). A row that comes back counts
once: the negative prompt of guidance, which every picture has, would otherwise weigh as much as all prompts together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Int64

from ditq.calibration import BlockCache, ImageSet, first_of_prompt, replay_inputs
from ditq.core.quantized import QuantizedWeight
from ditq.models.base import Network
from ditq.models.state import BlockState, SomeRows, Stream, row_batches, rows_at_once, take_rows
from ditq.quantization.assignment import Assigned
from ditq.quantization.calibration import Calibration
from ditq.quantization.handed_on import spooled
from ditq.weights import embedders
from ditq.weights.block_error import split_rows
from ditq.weights.embedders import Batch

Weights = dict[str, QuantizedWeight]


def pictures_of(cache: BlockCache) -> Int64[np.ndarray, "rows"]:
    """The picture of every row of a cache; of pictures with the same prompt, the first."""
    first = first_of_prompt({int(image): prompt for image, prompt in cache.meta.get("prompts", {}).items()})
    return np.repeat([first.get(image, image) for image, _ in cache.samples], cache.rows_per_sample)


def before(
    network: Network, todo: Assigned, calibration: Calibration
) -> Callable[[], tuple[Weights, dict[str, Any]]] | None:
    """Solves the layers in front of the blocks; None where all of them stay float."""
    asked = todo.phase("prepare", "begin")
    if not asked:
        return None

    def solve() -> tuple[Weights, dict[str, Any]]:
        weights, told = embedders.solve_phase(
            network, "prepare", asked, {}, partial(_prepares, network, calibration.cache)
        )
        begin = partial(_begins, network, todo, calibration)
        changed = {} if _of_prompts_alone(todo) else weights
        own, told_begin = embedders.solve_phase(network, "begin", asked, changed, begin)
        return {**weights, **own}, {**told, **told_begin}

    return solve


def after(
    network: Network,
    todo: Assigned,
    cache: BlockCache,
    solved: Weights,
    floats: Mapping[str, Stream],
    quantized: Mapping[str, Stream],
) -> Callable[[], tuple[Weights, dict[str, Any]]]:
    """Solves the layers behind the last block, from the states there of both networks; `solved` are those before."""
    height, width = cache.meta["latents"]

    def runs(state: Mapping[str, Stream]) -> Iterator[Batch]:
        size = rows_at_once({name: state[name] for name in network.results})
        for some, held_out in _parts(pictures_of(cache)):
            for rows in row_batches(some, size):
                yield Batch(partial(network.finish, take_rows(state, rows), height, width), held_out)

    ends = partial(runs, floats), partial(runs, quantized)
    return partial(embedders.solve_phase, network, "finish", todo.phase("finish"), solved, *ends)


def first_state(
    network: Network, todo: Assigned, calibration: Calibration, folder: Path
) -> Mapping[str, Stream]:
    """What quantized layers make of the first state, for every row; `network` has them in their places."""
    streams = {todo.anatomy.site(path).stream for path in todo.phase("begin")}
    if not streams:
        return {}
    images = _images(calibration)
    alone, samples = _of_prompts_alone(todo), calibration.cache.samples

    @lru_cache(1)  # the steps of an image follow one another
    def made(image: int, step: int) -> BlockState:
        state = _begun(network, images, [image], step)
        found = {name: state[name].astype(mx.float32) for name in state if name in streams}
        mx.eval(found)
        return found

    return spooled((made(image, samples[0][1] if alone else step) for image, step in samples), folder)


def distinct_rows(rows: Iterable[int], arrays: Sequence[np.ndarray], but: SomeRows) -> list[int]:
    """The first of each kind of `rows`, and none that is alike one of the rows `but`: alike in all arrays."""

    def kind(row: int) -> bytes:
        return sha256(b"".join(np.ascontiguousarray(array[row]).tobytes() for array in arrays)).digest()

    seen, found = {kind(row) for row in but.tolist()}, []
    for row in rows:
        if (own := kind(row)) not in seen:
            seen.add(own)
            found.append(row)
    return found


def _prepares(network: Network, cache: BlockCache) -> Iterator[Batch]:
    """Runs of what depends on prompts and timesteps alone."""
    for rows, held_out in rows_of_prompts(cache):
        given = {name: mx.array(array[rows]) for name, array in cache.conditioning.items()}
        yield Batch(partial(network.given, mx.array(cache.timesteps[rows]), **given), held_out)


def rows_of_prompts(cache: BlockCache) -> list[tuple[SomeRows, bool | None]]:
    """The distinct pairs of prompt and timestep, each by one row: those to solve with, and those that judge."""
    arrays, parts = [cache.timesteps, *cache.conditioning.values()], _parts(pictures_of(cache))
    used = np.zeros(0, np.int64)
    found: list[tuple[SomeRows, bool | None]] = []
    for some, held_out in parts:
        found.append((np.array(distinct_rows(some.tolist(), arrays, used), np.int64), held_out))
        used = some
    if not len(found[-1][0]):  # no row is held out that is not alike one of the others
        return [(found[0][0], None)]
    return found


def _begins(network: Network, todo: Assigned, calibration: Calibration) -> Iterator[Batch]:
    """Runs of a network's beginning on the calibration's pictures: at every step, or where the timestep changes
    nothing, at one."""
    images, cache = _images(calibration), calibration.cache
    samples = np.array(cache.samples)
    steps = list(dict.fromkeys(samples[:, 1].tolist()))
    for step in steps[:1] if _of_prompts_alone(todo) else steps:
        for some, held_out in _parts(pictures_of(cache)):
            chosen = list(dict.fromkeys(samples[some // cache.rows_per_sample, 0].tolist()))
            # behind the prompts' rows come the negative prompt's, all alike: one counts, where it is not held out
            count = len(chosen) + (1 if images.guided and not held_out else 0)
            yield Batch(partial(_begun, network, images, chosen, step), held_out, np.arange(count))


def _parts(pictures: Int64[np.ndarray, "rows"]) -> list[tuple[SomeRows, bool | None]]:
    """The rows to solve with and those to judge by; of few rows all serve for both (None)."""
    used, held_out = split_rows(pictures)
    return [(used, None)] if len(used) == len(pictures) else [(used, False), (held_out, True)]


def _begun(network: Network, images: ImageSet, chosen: Sequence[int], step: int) -> BlockState:
    latents, inputs = replay_inputs(network, images, chosen, step)
    return network.begin(latents, **inputs)


def _of_prompts_alone(todo: Assigned) -> bool:
    """Whether the quantized layers that make the first state read nothing but the prompts."""
    return all(todo.anatomy.site(path).rows == "prompt_tokens" for path in todo.phase("begin"))


def _images(calibration: Calibration) -> ImageSet:
    assert calibration.images is not None, (
        "layers in front of the blocks are quantized from recorded pictures"
    )
    return calibration.images
