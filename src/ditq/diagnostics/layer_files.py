"""The folder that step 2A writes: statistics of what the layers receive, one file per timestep.

layer_statistics.json             kind, version, model, images, step_keys, sigma_map; noise, where it is not
                                  rectified flow; layers: input, channels, label, stream, role, post_gelu and foldable
timestep_stats/step_{K}.npz       {path}::avg_min, avg_max (channels,) float64   ::abs_min, abs_max (channels,) float32
                                  ::hist (1026,) int64   ::images, count () int64   ::sample (rows, channels) float16
                                  ::priorities (rows,) float64   ::shift (channels,) float64, post-GELU layers only
                                  ::column_norms (channels,) float64: squared weights per channel
                                  hist_edges (1027,) float64
timestep_stats/step_{K}_index.json  per layer: tensor_absmax, hist_p50, hist_p99, hist_p999 and other scalars
`{path}` is the layer that was observed; the manifest says for each layer which one that is ("input"): layers that
receive the same array share the first one's. Files of older releases lack what stands behind "channels": their layers
are called by their paths, belong to no stream, and say nothing of folding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ditq.calibration.stored import made_again_by
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, read_stored_json, write_json, write_npz
from ditq.core.remedies import again
from ditq.core.schema import shown
from ditq.diagnostics.histogram import wide_edges
from ditq.diagnostics.layer_inputs import InputStatistics, sample_rows
from ditq.diagnostics.layer_names import Named, names_in
from ditq.diagnostics.reservoir import Reservoir
from ditq.diagnostics.step_checks import PER_CHANNEL, check_values
from ditq.sampling.schedules import PROCESSES, NoiseProcess, noise_of

KIND, VERSION, MADE_BY = "ditq.layer_statistics", 1, "collect_layer_activations"
MANIFEST, FOLDER = "layer_statistics.json", "timestep_stats"
CONTENTS = (MANIFEST, FOLDER)
"""What the folder holds: what a forced run removes."""
ARRAYS = (*PER_CHANNEL, "hist", "images", "count", "sample", "priorities")


@dataclass(frozen=True)
class LayerStatistics:
    """A complete folder, read one timestep at a time."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def steps(self) -> list[int]:
        """The calibrated steps, in the order of denoising."""
        return self.manifest["step_keys"]

    @property
    def sigmas(self) -> list[float]:
        """The noise level of each of them."""
        return [self.manifest["sigma_map"][str(step)] for step in self.steps]

    @property
    def noise(self) -> NoiseProcess:
        """The model's noise process."""
        return noise_of(self.manifest)

    @property
    def timesteps(self) -> Float32[np.ndarray, "steps"]:
        """The timestep of each of them."""
        return self.noise.timesteps(np.array(self.sigmas, np.float64)).astype(np.float32)

    @property
    def layers(self) -> dict[str, str]:
        """Each layer by path, with the one that was observed for it."""
        return {path: entry["input"] for path, entry in self.manifest["layers"].items()}

    @property
    def groups(self) -> dict[str, list[str]]:
        """Each observed layer, with all layers that receive what it receives."""
        found: dict[str, list[str]] = {}
        for path, source in self.layers.items():
            found.setdefault(source, []).append(path)
        return found

    @property
    def names(self) -> dict[str, Named]:
        """Every layer's label and stream."""
        entries = self.manifest["layers"]
        return names_in(entries if any("label" in entry for entry in entries.values()) else None, entries)

    def role(self, path: str) -> str | None:
        """What a layer does in its model, as `models.anatomy.Role`; None where an older file does not say."""
        return self.manifest["layers"][path].get("role")

    def foldable(self, source: str) -> bool:
        """Whether factors of an observed input can be folded into the layer in front of all that receive it.

        Raises UserError where an older file does not say.
        """
        entries = {path: self.manifest["layers"][path] for path in self.groups[source]}
        for path, entry in entries.items():
            if "foldable" not in entry:
                raise UserError(
                    f"{self.folder / MANIFEST}: {path}",
                    got="no entry 'foldable': an older version of ditq collected these statistics",
                    expected="true or false: whether smoothing factors fit into the layer in front of this one",
                    remedy="analyze with --smooth none or --smooth all, or collect the statistics again with --force",
                )
        return all(entry["foldable"] for entry in entries.values())

    @property
    def pooled(self) -> "PooledStatistics":
        """The same with all timesteps taken as one."""
        return PooledStatistics(self.folder, self.manifest)

    @property
    def each(self) -> "LayerStatistics":
        """The same with no timesteps pooled."""
        return LayerStatistics(self.folder, self.manifest)

    def at(self, step: int) -> dict[str, InputStatistics]:
        """The statistics of every observed layer at one step."""
        return read_step(self.folder, step, self.manifest)

    def behind(self, step: int) -> list[int]:
        """The recorded steps that one of `steps` stands for."""
        return [step]


@dataclass(frozen=True)
class PooledStatistics(LayerStatistics):
    """A folder whose timesteps are taken as one, named by the first: for grids that serve every timestep."""

    @property
    def steps(self) -> list[int]:
        """The first step, which stands for all."""
        return super().steps[:1]

    def behind(self, step: int) -> list[int]:
        """All of them."""
        return super().steps

    def at(self, step: int) -> dict[str, InputStatistics]:
        """The statistics of every observed layer over all steps; samples stay as large as one step's."""
        pooled, *others = (super(PooledStatistics, self).at(one) for one in super().steps)
        for found in others:
            for path, part in found.items():
                pooled[path].add(part)
        return pooled


def step_file(folder: Path, step: int) -> Path:
    """Where the arrays of a step lie."""
    return folder / FOLDER / f"step_{step}.npz"


def read_layer_statistics(path: Path) -> LayerStatistics:
    """The folder of a manifest. Raises UserError for another kind of file, or a run that is not finished."""
    manifest = read_stored_json(path, KIND, VERSION, MADE_BY)
    _check(path, manifest)
    missing = [step for step in manifest["step_keys"] if not step_file(path.parent, step).exists()]
    if missing:
        got = f"{len(missing)} of {len(manifest['step_keys'])} steps missing, the first: {missing[0]}"
        remedy = again("collect_layer_activations")
        raise UserError(str(path), got=got, remedy=remedy)
    return LayerStatistics(path.parent, manifest)


def noise_entry(noise: str) -> dict[str, str]:
    """A model's noise process as manifests keep it: only where it is not the usual one."""
    return {} if PROCESSES[noise] is noise_of({}) else {"noise": noise}


def _check(path: Path, manifest: dict[str, Any]) -> None:
    """Raises UserError for a manifest that lacks what every reader needs, or has it in another form."""
    steps, sigmas, layers = (manifest.get(name) for name in ("step_keys", "sigma_map", "layers"))
    if not isinstance(steps, list) or not steps or not isinstance(sigmas, dict):
        raise UserError(f"{path}: step_keys", got=steps, expected="a list of steps, and their sigma_map")
    for step in steps:
        if (
            not isinstance(step, int) or isinstance(step, bool) or steps.count(step) > 1
        ):  # part of files' names
            expected = "whole numbers, each once"
            raise UserError(f"{path}: step_keys", got=shown(step), expected=expected)
        if not isinstance(sigmas.get(str(step)), float | int):
            raise UserError(f"{path}: sigma_map: {step}", got=sigmas.get(str(step)), expected="a number")
    if not isinstance(layers, dict) or not layers:
        raise UserError(f"{path}: layers", got=layers, expected="an entry for each layer")
    for layer, entry in layers.items():
        found = entry if isinstance(entry, dict) else {}
        if not isinstance(found.get("input"), str) or not isinstance(found.get("channels"), int):
            raise UserError(f"{path}: {layer}", got=entry, expected="input and channels")
    try:
        names_in(layers if any("label" in entry for entry in layers.values()) else None, layers)
    except (KeyError, TypeError) as error:
        raise UserError(str(path), got=f"no or a wrong {error}", expected=f"a file of {MADE_BY}") from error
    if "noise" in manifest and manifest["noise"] not in list(PROCESSES):
        expected = f"one of {', '.join(PROCESSES)}"
        raise UserError(f"{path}: noise", got=manifest["noise"], expected=expected)


def write_step(folder: Path, step: int, found: dict[str, InputStatistics], manifest: dict[str, Any]) -> None:
    """Writes a step's index, then its arrays: where these are, the step is done."""
    arrays: dict[str, np.ndarray] = {"hist_edges": wide_edges()}
    for path, part in found.items():
        values = {
            "avg_min": part.avg_min,
            "avg_max": part.avg_max,
            "abs_min": part.abs_min,
            "abs_max": part.abs_max,
            "column_norms": part.column_norms,
            "hist": part.counts,
            "images": np.array(part.images, np.int64),
            "count": np.array(part.count, np.int64),
            "sample": part.sample.rows,
            "priorities": part.sample.priorities,
        }
        if part.shift is not None:
            values["shift"] = part.shift
        arrays |= {f"{path}::{name}": value for name, value in values.items()}
    index = {
        "step": step,
        "sigma": manifest["sigma_map"][str(step)],
        "layers": {
            path: {"input": entry["input"], **found[entry["input"]].summary()}
            for path, entry in manifest["layers"].items()
        },
    }
    write_json(folder / FOLDER / f"step_{step}_index.json", index)
    write_npz(step_file(folder, step), arrays)


def whole_step(folder: Path, step: int, manifest: dict[str, Any]) -> bool:
    """Whether both files of a step are there and as they must be."""
    try:
        read_step(folder, step, manifest)
        read_json(folder / FOLDER / f"step_{step}_index.json")
    except UserError:
        return False
    return True


def read_step(folder: Path, step: int, manifest: dict[str, Any]) -> dict[str, InputStatistics]:
    """The statistics of a step's file. Raises UserError, naming file and layer, for what is missing or not as the
    manifest says."""
    path, found = step_file(folder, step), dict[str, InputStatistics]()
    with made_again_by(MADE_BY):
        arrays = read_npz(path)
        for layer, entry in manifest["layers"].items():
            source, channels = entry["input"], entry["channels"]
            if source in found:
                continue
            missing = [name for name in ARRAYS if f"{source}::{name}" not in arrays]
            if missing:
                raise UserError(str(path), got=f"no {missing[0]} of {layer}")
            values = {name: arrays[f"{source}::{name}"] for name in ARRAYS}
            shift = arrays.get(f"{source}::shift")
            check_values(path, layer, values if shift is None else {**values, "shift": shift}, channels)
            size = sample_rows(manifest["sample_values"], channels)
            found[source] = InputStatistics(
                images=int(values["images"]),
                count=int(values["count"]),
                **{name: values[name] for name in PER_CHANNEL},
                shift=shift,
                counts=values["hist"],
                sample=Reservoir(size, values["priorities"], values["sample"]),
            )
    return found
