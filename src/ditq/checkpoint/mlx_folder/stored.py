"""Weights and activation grids as a checkpoint folder stores them."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ditq.activations import ActivationTable
from ditq.activations.table import check_timesteps
from ditq.core import numbers, packing
from ditq.core.activation_grid import PARTS as GRID_PARTS
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec

Arrays = dict[str, mx.array]
PARTS = ("weight", "scales", "biases")
SCALES = {"float16": mx.float16, "float32": mx.float32}
"""What scales can be stored as."""


@dataclass(frozen=True)
class Layout:
    """How one layer lies in its arrays: MLX's own words for it, and what MLX does not ask."""

    bits: int
    stored_group: int
    """Columns per stored scale."""
    symmetric: bool
    per_channel: bool
    """All stored scales of a row are one and the same."""
    scales: str | None
    """A key of `SCALES`; None: a folder of an earlier version, which does not say."""

    @classmethod
    def of(cls, weight: QuantizedWeight, path: str, scales: str | None = None) -> "Layout":
        """The layout of a weight. Raises UserError, with the layer's path, for what MLX cannot store.

        Without `scales` these take 16 bits where that changes none of the weight's values, else 32. Other readers than
        ours take asymmetric grids from biases alone, which float16 rounds: by a 250th of a step at 4 bits, a 16th at 8.
        """
        return cls.on(
            weight.spec, weight.shape[1], path, scales or ("float16" if weight.is_half else "float32")
        )

    @classmethod
    def on(cls, spec: Spec, columns: int, path: str, scales: str = "float16") -> "Layout":
        """The layout of a matrix with so many columns that is yet to be quantized. Errors as in `of`."""
        group = packing.storage_group(spec, columns, path)
        return cls(spec.bits, group, spec.symmetric, spec.group_size is None, scales)

    @property
    def spec(self) -> Spec:
        """The grid."""
        return Spec(self.bits, self.symmetric, None if self.per_channel else self.stored_group)


def shapes(layout: Layout, rows: int, columns: int) -> dict[str, tuple[tuple[int, int], mx.Dtype]]:
    """Shape and dtype of each of a layer's `PARTS`."""
    steps = (rows, columns // layout.stored_group), SCALES[layout.scales or "float32"]
    return {"weight": ((rows, columns * layout.bits // 32), mx.uint32), "scales": steps, "biases": steps}


def stored(weight: QuantizedWeight, path: str, layout: Layout) -> Arrays:
    """`weight`, `scales` and `biases` under the layer's path, as MLX's `nn.QuantizedLinear` names them.

    Scales are rounded to their dtype first, so that biases, and with them the codes' zero points, fit them.
    """
    scales = SCALES[layout.scales or "float32"]
    rounded = weight.scale.astype(scales).astype(mx.float32)
    words, steps, biases = packing.pack(weight.codes, rounded, weight.zero, weight.spec, path)
    arrays = (words, steps.astype(scales), biases.astype(scales))
    held = [array.astype(mx.float32) for array in arrays[1:]]
    if not all(mx.isfinite(array).all().item() for array in held) or not (held[0] > 0).all().item():
        remedy = "store the scales as float32"
        raise UserError(f"{path}: scales", got=f"values beyond {scales}", remedy=remedy)
    return {f"{path}.{part}": array for part, array in zip(PARTS, arrays, strict=True)}


def check_stored(arrays: Mapping[str, mx.array], path: str, layout: Layout, shape: tuple[int, ...]) -> None:
    """Raises UserError, naming the layer, unless its `PARTS` are those of a float layer of `shape`; reads no data."""
    for part, (expected, _) in shapes(layout, *shape).items():
        if arrays[part].shape != expected:
            raise UserError(
                f"{path}.{part}",
                got=f"shape {arrays[part].shape}",
                expected=f"{expected} for {layout.bits} bits and groups of {layout.stored_group}",
            )
        dtypes = (mx.uint32,) if part == "weight" else (mx.float32, mx.float16, mx.bfloat16)
        if arrays[part].dtype not in dtypes:
            expected = "packed uint32" if part == "weight" else "float32 or float16"
            raise UserError(f"{path}.{part}", got=arrays[part].dtype, expected=expected)


def restored(arrays: Mapping[str, mx.array], path: str, layout: Layout) -> QuantizedWeight:
    """The weight in a layer's `PARTS`. Raises UserError, naming the layer, for values that no grid of ours has."""
    words, scales, biases = (arrays[part] for part in PARTS)
    spec = layout.spec
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    numbers.check_positive(scales, f"{path}.scales")
    numbers.check_numbers(biases, f"{path}.biases")
    if layout.per_channel:
        for part, array in (("scales", scales), ("biases", biases)):
            if not mx.array_equal(array, mx.broadcast_to(array[:, :1], array.shape)).item():
                expected = f"the same {part} for all groups of a channel"
                raise UserError(f"{path}.{part}", got="groups of one channel that differ", expected=expected)
        scales, biases = scales[:, :1], biases[:, :1]
    elif _repeated(scales) and (biases == biases[:, :1]).all().item():
        raise UserError(
            f"{path}.scales",
            got="one scale in all groups of each channel",
            expected="a scale a group, as config.json's weight_quantization says (per_channel false)",
            remedy="copy the whole folder again, or export it again",
        )
    zero = spec.qmin - biases / scales
    whole = mx.round(zero)
    # Half-precision biases know zero point times scale to three digits; a foreign file's are anywhere between.
    if not (mx.abs(zero - whole) < 0.25).all().item():
        raise UserError(
            f"{path}.biases", got="zero points between two codes", expected="whole ones, as ditq writes"
        )
    weight = QuantizedWeight(packing.unpack(words, spec), scales, whole, spec)
    weight.check(path)
    return weight


def _repeated(groups: mx.array) -> bool:
    """Whether the groups of each channel share one value, which another channel has not: in a layer of constant weights
    all groups of all channels are alike.
    """
    alike, constant = (groups == groups[:, :1]).all().item(), (groups == groups[:1, :1]).all().item()
    return groups.shape[1] > 1 and bool(alike and not constant)


def table_arrays(table: ActivationTable) -> dict[str, np.ndarray]:
    """The grids as named arrays: timesteps, and {path}:: with the `PARTS` of its rows, a row per timestep.

    Raises UserError, naming the layer, for senseless numbers, and for a grid that has no row for each of the table's
    timesteps: one that computes its rows would be another grid when it is read again.
    """
    arrays = {"timesteps": table.timesteps.astype(np.float32)}
    for path, grid in table.grids.items():
        if not isinstance(grid, TimestepGrid) or not np.array_equal(grid.timesteps, table.timesteps):
            raise UserError(
                f"{path}: activation grid",
                got=f"a {type(grid).__name__} of other timesteps than the table's",
                expected="a row for each timestep of the table",
                remedy="tabulate it first: TimestepGrid(timesteps, grid.at(timesteps), grid.smooth)",
            )
        grid.rows.check(f"{path}: activation")
        for part, value in grid.rows.arrays.items():
            arrays[f"{path}::{part}"] = np.array(value, np.float32)
    return arrays


def table_from(
    arrays: Mapping[str, np.ndarray], smooth: Mapping[str, mx.array], source: str
) -> ActivationTable:
    """The table of `table_arrays`, with the smoothing factors of its layers.

    Raises UserError, naming `source` and the layer, for a part that is missing, unknown, misshapen or senseless.
    """
    paths = dict.fromkeys(key.partition("::")[0] for key in arrays if "::" in key)
    wanted = ["timesteps", *(f"{path}::{part}" for path in paths for part in GRID_PARTS[:3])]
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise UserError(source, got=f"no {missing[0]}", expected="whole activation grids")
    unknown = [key for key in arrays if key not in wanted and key.rpartition("::")[2] not in GRID_PARTS[3:]]
    if unknown:
        raise UserError(
            source, got=f"an array {unknown[0]!r}", expected="timesteps and {layer}::scale, qmin, ..."
        )
    for key, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{source}: {key}", got=str(array.dtype), expected="floating-point numbers")
    timesteps = arrays["timesteps"].astype(np.float32)
    check_timesteps(timesteps, f"{source}: timesteps")

    def grid(path: str) -> TimestepGrid:
        parts = {part: arrays.get(f"{path}::{part}") for part in GRID_PARTS}
        for part, value in parts.items():
            if value is not None and value.ndim != (2 if part == "shift" else 1):
                expected = "(timesteps, channels)" if part == "shift" else "(timesteps,)"
                raise UserError(f"{source}: {path}", got=f"{part} of shape {value.shape}", expected=expected)
        steps = [len(value) for value in parts.values() if value is not None]
        if steps != [len(timesteps)] * len(steps):
            raise UserError(f"{source}: {path}", got=f"rows for {steps} timesteps", expected=len(timesteps))
        made = [None if value is None else mx.array(value.astype(np.float32)) for value in parts.values()]
        rows = GridRows(*made)  # pyright: ignore[reportArgumentType]
        rows.check(f"{source}: {path}: activation")
        return TimestepGrid(timesteps, rows, smooth.get(path))

    return ActivationTable(timesteps, {path: grid(path) for path in paths})
