"""The Phase 1 calibration file: shuffled (x, timestep) points of many trajectories, with their prompts' conditioning.

xs (points, height, width, channels) float16      ts (points,) float32, timesteps
prompt_indices (points,) int32                    step_indices, trajectory_indices (points,) int32
cs (prompts, 2, text_tokens, text_dim) float32; rows: prompt, negative
cs_pooled (prompts, 2, pooled_dim) float32        cs_mask (prompts, 2, text_tokens) float32, where the model has them
prompts (prompts,) text                           cfg_scale () float32
__meta__ JSON text: kind, version, producer, model, sampler settings, seed
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float16, Float32, Int32

from ditq.calibration.stored import check_array
from ditq.core.errors import UserError
from ditq.core.files import read_npz, stored_meta, write_npz
from ditq.models.base import Conditioning

KIND, VERSION = "ditq.calibration_points", 1


@dataclass(frozen=True)
class PointSet:
    """Calibration points in the order of their shuffle."""

    xs: Float16[np.ndarray, "points height width channels"]
    ts: Float32[np.ndarray, "points"]
    prompt_indices: Int32[np.ndarray, "points"]
    step_indices: Int32[np.ndarray, "points"]
    trajectory_indices: Int32[np.ndarray, "points"]
    cs: Float32[np.ndarray, "prompts 2 text_tokens text_dim"]
    prompts: list[str]
    cfg_scale: float
    meta: dict[str, Any]
    """What made the points: `model`, the sampler's settings, `seed`."""
    cs_pooled: Float32[np.ndarray, "prompts 2 pooled_dim"] | None = None
    cs_mask: Float32[np.ndarray, "prompts 2 text_tokens"] | None = None

    def __len__(self) -> int:
        return len(self.ts)

    def conditioning(self, prompt: int) -> Conditioning:
        """Two rows, the prompt's and the negative's: what guidance needs."""
        arrays = {name: getattr(self, stored) for name, stored in CONDITIONING.items()}
        rows = {name: mx.array(array[prompt]) for name, array in arrays.items() if array is not None}
        return Conditioning(**rows)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The numeric arrays that the file holds, by name."""
        every = {name: getattr(self, name) for name in _ARRAYS}
        return {name: array for name, array in every.items() if array is not None}


def write_points(path: str | Path, points: PointSet) -> None:
    """Writes the file that this module describes, atomically and without pickling."""
    meta = {"kind": KIND, "version": VERSION, **points.meta}
    text = {"prompts": np.array(points.prompts), "__meta__": np.array(json.dumps(meta))}
    write_npz(path, {**points.arrays, **text, "cfg_scale": np.array(points.cfg_scale, np.float32)})


def read_points(path: str | Path) -> PointSet:
    """The points of a Phase 1 file. Raises UserError when it is another kind of file, or its arrays do not agree."""
    arrays = read_npz(path)
    numeric = [name for name in _ARRAYS if name in arrays or name not in OPTIONAL]
    absent = [name for name in (*numeric, "prompts", "cfg_scale", "__meta__") if name not in arrays]
    if absent:
        raise UserError(
            str(path), got=f"no {', '.join(absent)}", expected="a calibration file of sample_cali_data"
        )
    meta = stored_meta(arrays, path, KIND, VERSION, "sample_cali_data")
    text, scale = arrays["prompts"], arrays["cfg_scale"]
    if text.ndim != 1 or text.dtype.kind != "U" or not len(text):
        raise UserError(
            f"{path}: prompts", got=f"{text.dtype}{text.shape}", expected="one text each, at least one"
        )
    check_array(Path(path), "cfg_scale", scale, (), "float32")
    points, prompts = arrays["ts"].size, len(text)
    for name in numeric:
        array, length = arrays[name], prompts if name.startswith("cs") else points
        dtype, axes = _ARRAYS[name]
        if array.dtype != dtype or array.ndim != axes or len(array) != length:
            got = f"{name} {array.dtype}{array.shape}"
            raise UserError(str(path), got=got, expected=f"{np.dtype(dtype)}, {axes} axes, {length} rows")
        check_array(Path(path), name, array, array.shape, np.dtype(dtype).name)
        if name.startswith("cs") and array.shape[1] != 2:
            raise UserError(f"{path}: {name}", got=f"shape {array.shape}", expected="2 rows a prompt")
    for name, end in (("prompt_indices", prompts), ("step_indices", None), ("trajectory_indices", None)):
        index = arrays[name]
        if points and (index.min() < 0 or (end is not None and index.max() >= end)):
            got = f"{name.removesuffix('_indices')} index {index.min() if index.min() < 0 else index.max()}"
            raise UserError(str(path), got=got, expected=f"below {end}" if index.min() >= 0 else "0 or more")
    rest = {name: arrays[name] for name in numeric}
    return PointSet(
        **rest, prompts=arrays["prompts"].tolist(), cfg_scale=float(arrays["cfg_scale"]), meta=meta
    )


_ARRAYS = {
    "xs": (np.float16, 4),
    "ts": (np.float32, 1),
    "prompt_indices": (np.int32, 1),
    "step_indices": (np.int32, 1),
    "trajectory_indices": (np.int32, 1),
    "cs": (np.float32, 4),
    "cs_pooled": (np.float32, 3),
    "cs_mask": (np.float32, 3),
}
"""Name, dtype and number of axes of each numeric array."""
CONDITIONING = {"tokens": "cs", "pooled": "cs_pooled", "mask": "cs_mask"}
"""The fields of a Conditioning, as this file calls them."""
OPTIONAL = ("cs_pooled", "cs_mask")
