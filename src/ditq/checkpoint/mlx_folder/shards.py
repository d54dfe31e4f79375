"""Named arrays cut into safetensors files of a bounded size, with the index that loaders read."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from ditq.core.files import remove, write_json, write_safetensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The file of a folder whose arrays fit into one, and the index of the files where they do not."""


def written_shards(folder: Path, arrays: Mapping[str, mx.array], limit: int) -> list[Path]:
    """Writes `arrays` to model.safetensors, or to model-00001-of-....safetensors and their index; returns the files.

    A file has at most `limit` bytes of arrays, or a single array. Files of an earlier run go first.
    """
    remove(*folder.glob("model*.safetensors"), folder / INDEX)
    shards: list[dict[str, mx.array]] = [{}]
    size = 0
    for name in sorted(arrays):
        if shards[-1] and size + arrays[name].nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = arrays[name]
        size += arrays[name].nbytes
    if len(shards) == 1:
        write_safetensors(folder / SINGLE, shards[0])
        return [folder / SINGLE]
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard)
    index = folder / INDEX
    places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(array.nbytes for array in arrays.values())
    write_json(index, {"metadata": {"total_size": total}, "weight_map": places})
    return [*(folder / name for name in names), index]
