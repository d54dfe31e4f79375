"""The file of Phase 2: what each observed layer received at each timestep.

{layer}::t={t}::count () int64: values per channel      {layer}::t={t}::mean, std, min, max (channels,) float64
{layer}::t={t}::sum, sum_squares (channels,) float64: what mean and std come from, and what two files merge by
{layer}::t={t}::histogram (512,) int64                  {layer}::t={t}::underflow, overflow () int64: < -8; >= 8
{layer}::t={t}::wide_histogram (1026,) int64            {layer}::weight_min, weight_max (channels,) float64
histogram_bin_edges (513,), wide_bin_edges (1027,)      timesteps_unique (timesteps,) float32, ascending
points (points,) int64: rows of the calibration file    __meta__ JSON text: kind, version, model, layers, recipe,
                                                        sites: {layer: {label, stream}}
`{layer}` is the path as MLX prints it; `{t}` the shortest decimal that reads back as the float32 timestep.
Files of older releases have no `sites`: their layers are called by their paths and belong to no stream.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64

import ditq
from ditq.calibration.stored import check_array
from ditq.core.errors import UserError
from ditq.core.files import read_npz, stored_meta, write_npz
from ditq.core.schema import FILLED, checked
from ditq.diagnostics.channels import ChannelStatistics, PerChannel, merged
from ditq.diagnostics.histogram import Histograms, even_edges, wide_edges
from ditq.diagnostics.layer_names import Named, names_in

KIND, VERSION, MADE_BY = "ditq.activation_statistics", 1, "profile_postgelu"
SAME = ("model", "calibration", "inputs", "layers")
"""Fields of the meta data that files must share to be merged."""

PER_CHANNEL = ("sum", "sum_squares", "min", "max")
COUNTS = {
    "count": (),
    "underflow": (),
    "overflow": (),
    "histogram": (len(even_edges()) - 1,),
    "wide_histogram": (len(wide_edges()) - 1,),
}
REMEDY = "profile the model again"


@dataclass
class ActivationStatistics:
    """Statistics by layer and timestep, with the weights that meet them."""

    layers: dict[str, dict[float, ChannelStatistics]]
    weights: dict[str, tuple[PerChannel, PerChannel]]
    """The least and the greatest weight that each input channel meets."""
    points: Int64[np.ndarray, "points"]
    """The rows of the calibration file that were run."""
    meta: dict[str, Any] = field(default_factory=dict)
    """`model`, `layers`, the recipe, and `sites`: what each layer is called."""

    @property
    def names(self) -> dict[str, Named]:
        """Every layer's label and stream."""
        return names_in(self.meta.get("sites"), self.layers)

    def add(self, layer: str, timestep: float, part: ChannelStatistics) -> None:
        """Adds the statistics of what `layer` received at `timestep`."""
        steps = self.layers[layer]
        if timestep not in steps:
            steps[timestep] = ChannelStatistics.empty(part.channels)
        steps[timestep].add(part)

    @property
    def timesteps(self) -> list[float]:
        """All timesteps, in the order of denoising: the noisiest first."""
        return sorted({t for steps in self.layers.values() for t in steps}, reverse=True)

    def over_time(self, layer: str) -> ChannelStatistics:
        """A layer's statistics over all timesteps."""
        return merged([self.layers[layer][t] for t in self.timesteps])


def merge(parts: Sequence[ActivationStatistics]) -> ActivationStatistics:
    """The statistics of all parts' points. Raises UserError when they do not belong together, or share points."""
    first = parts[0]
    whole = ActivationStatistics(
        {path: {} for path in first.layers}, first.weights, first.points[:0], first.meta
    )
    for part in parts:
        for name in SAME:
            if part.meta.get(name) != first.meta.get(name):
                raise UserError(
                    f"cannot merge: {name}", got=part.meta.get(name), expected=first.meta.get(name)
                )
        shared = np.intersect1d(part.points, whole.points)
        if shared.size:
            remedy = "merge the shards of one run (--shard K/N), which share none"
            raise UserError("cannot merge", got=f"{shared.size} points that are in both files", remedy=remedy)
        for layer, steps in part.layers.items():
            for timestep, statistics in steps.items():
                whole.add(layer, timestep, statistics)
        whole.points = np.concatenate([whole.points, part.points])
    return whole


def write_statistics(path: str | Path, statistics: ActivationStatistics) -> None:
    """Writes the file that this module describes, atomically and without pickling."""
    arrays: dict[str, np.ndarray] = {}
    for layer, steps in statistics.layers.items():
        for timestep in sorted(steps):
            found = _arrays(steps[timestep])
            arrays |= {f"{layer}::t={_text(timestep)}::{name}": array for name, array in found.items()}
        arrays[f"{layer}::weight_min"], arrays[f"{layer}::weight_max"] = statistics.weights[layer]
    meta = {"kind": KIND, "version": VERSION, "producer": f"ditq {ditq.__version__}", **statistics.meta}
    arrays["timesteps_unique"] = np.array(statistics.timesteps[::-1], np.float32)
    arrays["histogram_bin_edges"], arrays["wide_bin_edges"] = even_edges(), wide_edges()
    arrays["points"] = statistics.points
    write_npz(path, {**arrays, "__meta__": np.array(json.dumps(meta))})


def read_statistics(path: str | Path) -> ActivationStatistics:
    """The statistics of a file. Raises UserError when it is another kind of file, incomplete or not finite."""
    arrays = read_npz(path)
    meta = stored_meta(arrays, path, KIND, VERSION, MADE_BY)
    meta.pop("producer", None)
    checked(meta.get("layers"), Annotated[list[str], FILLED], f"{path}: layers")
    try:
        steps = {_text(float(t)): float(t) for t in arrays["timesteps_unique"]}
        layers = {
            layer: {t: _statistics(Path(path), arrays, f"{layer}::t={text}::") for text, t in steps.items()}
            for layer in meta["layers"]
        }
        weights = {
            layer: (arrays[f"{layer}::weight_min"], arrays[f"{layer}::weight_max"]) for layer in layers
        }
        points = arrays["points"]
        names_in(meta.get("sites"), layers)
    except KeyError as error:
        raise UserError(str(path), got=f"no {error.args[0]}", expected=f"a file of {MADE_BY}") from error
    except TypeError as error:
        raise UserError(str(path), got=f"a wrong {error}", expected=f"a file of {MADE_BY}") from error
    check_array(Path(path), "points", points, (None,), "int64")
    for layer, found in layers.items():
        _check_weights(Path(path), layer, weights[layer])
        for t, part in found.items():
            if not all(np.isfinite(a).all() for a in (part.total, part.squares, part.minimum, part.maximum)):
                got = f"values that are not finite: {layer} at timestep {_text(t)}"
                raise UserError(str(path), got=got, remedy=REMEDY)
    return ActivationStatistics(layers, weights, points, meta)


def _check_weights(path: Path, layer: str, weights: tuple[np.ndarray, np.ndarray]) -> None:
    """Raises UserError unless these are the least and the greatest weight of each channel."""
    shape = (*weights[0].shape[:1], *((None,) if weights[0].ndim == 0 else ()))
    for name, array in zip(("weight_min", "weight_max"), weights, strict=True):
        check_array(path, f"{layer}::{name}", array, shape, "float64")


def _arrays(part: ChannelStatistics) -> dict[str, np.ndarray]:
    even = part.histograms.even
    return {
        "count": np.array(part.count, np.int64),
        "mean": part.mean,
        "std": part.std,
        "min": part.minimum,
        "max": part.maximum,
        "sum": part.total,
        "sum_squares": part.squares,
        "histogram": even[1:-1],
        "underflow": even[0],
        "overflow": even[-1],
        "wide_histogram": part.histograms.wide,
    }


def _statistics(path: Path, arrays: dict[str, np.ndarray], prefix: str) -> ChannelStatistics:
    """A layer's statistics at one timestep. Raises UserError for arrays of another shape or dtype, KeyError without."""
    found = {name: arrays[prefix + name] for name in (*PER_CHANNEL, *COUNTS)}
    channels = found["sum"].size
    for name in PER_CHANNEL:
        array = found[name]
        if array.shape != (channels,) or array.dtype != np.float64:
            got, expected = f"{array.dtype}{array.shape}", f"float64({channels},)"
            raise UserError(f"{path}: {prefix}{name}", got=got, expected=expected, remedy=REMEDY)
    for name, shape in COUNTS.items():
        array = found[name]
        if array.shape != shape or array.dtype.kind not in "iu" or array.min(initial=0) < 0:
            got = f"{array.dtype}{array.shape}" if array.shape != shape else "no counts"
            expected = f"whole numbers{shape}, none below 0"
            raise UserError(f"{path}: {prefix}{name}", got=got, expected=expected, remedy=REMEDY)
    if not found["count"]:
        raise UserError(f"{path}: {prefix}count", got=0, expected="one value at least", remedy=REMEDY)
    even = np.concatenate([[found["underflow"]], found["histogram"], [found["overflow"]]])
    both = Histograms(even, found["wide_histogram"])
    total, squares, minimum, maximum = (found[name] for name in PER_CHANNEL)
    return ChannelStatistics(int(found["count"]), total, squares, minimum, maximum, both)


def _text(timestep: float) -> str:
    return str(np.float32(timestep))
