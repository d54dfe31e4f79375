"""quant_config.json, which step 3A hands to the weight track and to inference; and its reader.

quant_config.json  kind, version, "scale": "step", model, images; sigma_map {step: sigma}; noise, where it is not
                   rectified flow; method: what decided;
                   per_timestep {step: {layer: {bits, scale, shift}}}: shift is a number (the centre of the grid), null
                   for zero, or "channels"; smooth {layer: "channels"} of the layers with factors; outliers; summary;
                   kinds {kind: version that reads it} of grids that also have below or per_token in each entry
quant_config.npz   beside it, where there are such arrays: {layer}::shift (steps, channels), {layer}::smooth
                   (channels,), float32; layers that share an input share the arrays of the first, as "arrays" says
Grids of any kind are stored as their rows at the calibrated timesteps.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import mlx.core as mx
import numpy as np

import ditq
from ditq.activations.decision import Decision, kind_of
from ditq.activations.table import ActivationTable, check_timesteps
from ditq.core import numbers, plan
from ditq.core.activation_grid import GridRows, TimestepGrid, check_kinds, kinds_of
from ditq.core.errors import UserError
from ditq.core.files import inside, read_npz, read_stored_json, remove, write_json, write_npz
from ditq.core.schema import FILLED, checked, shown, within
from ditq.diagnostics import LayerStatistics
from ditq.diagnostics.layer_files import noise_entry
from ditq.sampling.schedules import PROCESSES

KIND, VERSION, MADE_BY = "ditq.quant_config", 1, "analyze_activations"
CHANNELS = "channels"
TOGETHER = f"keep both files of {MADE_BY} together, or run it again"


def write_quant_config(
    path: Path, statistics: LayerStatistics, decision: Decision, meta: Mapping[str, Any]
) -> None:
    """Writes the decision for every layer: the arrays first, so that a config never names arrays that are not there."""
    arrays = {f"{source}::smooth": factors for source, factors in decision.smooth.items()}
    for source, rows in decision.rows.items():
        if kind_of(rows) == CHANNELS:
            arrays[f"{source}::shift"] = np.array(rows.shift)
    companion = path.with_suffix(".npz")
    remove(path)
    if arrays:
        write_npz(companion, arrays)
    else:
        remove(companion)
    layers = {layer: source for layer, source in statistics.layers.items() if source in decision.grids}
    entries = {source: _entries(rows) for source, rows in decision.rows.items()}
    per_timestep = {
        str(step): {layer: entries[source][i] for layer, source in layers.items()}
        for i, step in enumerate(decision.steps)
    }
    config = {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "scale": "step",
        **{name: statistics.manifest[name] for name in ("model", "images", "sigma_map")},
        **noise_entry(statistics.noise.name),
        **meta,
        "arrays": {
            "file": companion.name if arrays else None,
            "digest": _digest(arrays),
            "of": {layer: source for layer, source in layers.items() if layer != source},
        },
        "smooth": {layer: CHANNELS for layer, source in layers.items() if source in decision.smooth},
        "outliers": {source: report for source, report in decision.reports.items() if "spikes" in report},
        "shifts": {
            source: {"kind": kind, **_reasons(decision.reports.get(source, {}))}
            for source, kind in decision.kinds.items()
        },
        **({"kinds": kinds} if (kinds := kinds_of(decision.rows.values())) else {}),
        "per_timestep": per_timestep,
    }
    write_json(path, config)


class Entry(TypedDict):
    """One layer's grid at one step."""

    bits: Annotated[int, within(2, 8)]
    scale: Annotated[float, numbers.POSITIVE]
    shift: Annotated[float, numbers.FINITE] | Literal["channels"] | None


class OwnEntry(Entry, total=False):
    """The same of a grid of one of `core.activation_grid.KINDS`."""

    below: Annotated[float, numbers.POSITIVE]
    per_token: Annotated[float, numbers.POSITIVE]


class Arrays(TypedDict):
    """What is said of the npz file."""

    file: str | None
    digest: str
    of: dict[str, str]


class Config(TypedDict):
    """What is read of quant_config.json."""

    scale: Literal["step"]
    sigma_map: Annotated[dict[str, Annotated[float, within(0, 1)]], FILLED]
    arrays: Arrays
    smooth: dict[str, Literal["channels"]]
    per_timestep: Annotated[dict[str, Annotated[dict[str, OwnEntry], FILLED]], FILLED]


def read_quant_config(path: Path) -> ActivationTable:
    """The activation grids of a config. Raises UserError, naming layer and step, for what is missing or senseless."""
    raw = read_stored_json(path, KIND, VERSION, MADE_BY)
    noise = raw.get("noise", "rectified-flow")
    if not isinstance(noise, str) or noise not in PROCESSES:
        raise UserError(f"{path}: noise", got=shown(noise), expected=f"one of {', '.join(PROCESSES)}")
    check_kinds(checked(raw.get("kinds", {}), dict[str, str], f"{path}: kinds"), f"{path}: kinds")
    config = checked(raw, Config, str(path))
    by_step = config["per_timestep"]
    steps = _steps(path, config)
    sigmas = np.array([config["sigma_map"][step] for step in steps], np.float64)
    timesteps = PROCESSES[noise].timesteps(sigmas).astype(np.float32)
    check_timesteps(timesteps, f"{path}: the timesteps of sigma_map")
    layers = list(by_step[steps[0]])
    arrays = _arrays(path, config["arrays"])
    _check_arrays(path, config, layers, arrays)
    grids: dict[str, TimestepGrid] = {}
    for layer in layers:
        entries = [by_step[step][layer] for step in steps]
        source = config["arrays"]["of"].get(layer, layer)
        smooth = mx.array(arrays[f"{source}::smooth"]) if layer in config["smooth"] else None
        shift = _shift(f"{path}: {layer}", entries, arrays.get(f"{source}::shift"))
        grids[layer] = TimestepGrid(timesteps, _rows(f"{path}: {layer}", entries, shift), smooth)
    found, told = kinds_of(grid.rows for grid in grids.values()), raw.get("kinds", {})
    if found.keys() != told.keys():
        got, expected = (", ".join(kinds) or "none" for kinds in (found, told))
        raise UserError(f"{path}: grids of kinds", got=got, expected=f"{expected}, as its key kinds says")
    return ActivationTable(timesteps, {**grids})


def _steps(path: Path, config: Config) -> list[str]:
    """The steps that have grids, in the order of the run: one of those recorded where the grids are static."""
    by_step, sigmas = config["per_timestep"], config["sigma_map"]
    wrong = [step for step in {**by_step, **sigmas} if not (step.isascii() and step.isdigit())]
    if wrong:
        raise UserError(f"{path}: per_timestep", got=shown(wrong[0]), expected="the numbers of steps")
    steps = sorted(by_step, key=int)
    lacking = [step for step in steps if step not in sigmas]
    if lacking:
        raise UserError(f"{path}: sigma_map", got=f"no {lacking[0]!r}", expected="the steps of per_timestep")
    lost = [step for step in sigmas if step not in by_step]
    if lost and len(steps) > 1:
        raise UserError(
            f"{path}: per_timestep", got=f"no {lost[0]!r}", expected="the steps of sigma_map, or one alone"
        )
    for step in steps:
        other = by_step[step].keys() ^ by_step[steps[0]].keys()
        if other:
            layer = min(other)
            where = f"{path}: per_timestep: {step}"
            got = f"no {layer!r}" if layer in by_step[steps[0]] else f"{layer!r}, which step {steps[0]} lacks"
            raise UserError(where, got=got, expected="the same layers at every step")
    return steps


def _check_arrays(path: Path, config: Config, layers: list[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless the npz file holds what the config says of its layers, sound, and nothing else."""
    of, companion = config["arrays"]["of"], str(path.with_suffix(".npz"))
    for name, told in (("smooth", config["smooth"]), ("arrays: of", of)):
        unknown = [layer for layer in told if layer not in layers]
        if unknown:
            raise UserError(f"{path}: {name}", got=shown(unknown[0]), expected="layers of per_timestep")
    entries = next(iter(config["per_timestep"].values()))
    shifted = [layer for layer in layers if entries[layer]["shift"] == CHANNELS]
    wanted = dict.fromkeys(f"{of.get(layer, layer)}::shift" for layer in shifted)
    wanted |= dict.fromkeys(f"{of.get(layer, layer)}::smooth" for layer in config["smooth"])
    for layer in layers:
        named = f"{of.get(layer, layer)}::smooth"
        if (layer in config["smooth"]) != (named in arrays):
            got = (
                f"no {named}"
                if named not in arrays
                else "smoothing factors of a layer that smooth does not list"
            )
            raise UserError(
                f"{companion}: {layer}", got=got, expected=f"as {path.name} says", remedy=TOGETHER
            )
    for name, array in arrays.items():
        axes = 2 if name.endswith("::shift") else 1
        if name not in wanted or array.dtype != np.float32 or array.ndim != axes or not array.size:
            got = f"{array.dtype} of shape {array.shape}" if name in wanted else f"an array {name!r}"
            raise UserError(f"{companion}: {name}", got=got, expected=f"the arrays that {path.name} names")
        if axes == 1:
            numbers.check_positive(array, f"{companion}: {name}", "factors")
        else:
            numbers.check_numbers(array, f"{companion}: {name}")


def _rows(where: str, entries: list[OwnEntry], shift: np.ndarray | None) -> GridRows:
    scale = np.array([entry["scale"] for entry in entries], np.float32)
    own: dict[str, np.ndarray] = {}
    for name in ("below", "per_token"):
        given = [value for entry in entries if (value := entry.get(name)) is not None]
        if given and len(given) != len(entries):
            raise UserError(where, got=f"{name} at some steps", expected="at all steps, or at none")
        if given:
            own[name] = np.array(given, np.float32)
    rows = GridRows.of([entry["bits"] for entry in entries], scale, shift, **own)
    rows.check(where)
    return rows


def _entries(rows: GridRows) -> list[dict[str, Any]]:
    """One entry for each row: float32 numbers, so that a config read and written again is the same file."""
    kind = kind_of(rows)
    shifts: list[Any] = [None if rows.shift is None else CHANNELS] * len(rows)
    if kind == "tensor":
        shifts = np.array(rows.shift)[:, 0].tolist()
    scales = np.array(rows.scale).tolist()
    own = {
        name: np.array(rows.arrays[name]).tolist() for name in ("below", "per_token") if name in rows.arrays
    }
    return [
        {"bits": bits, "scale": scale, "shift": shift, **{name: values[i] for name, values in own.items()}}
        for i, (bits, scale, shift) in enumerate(zip(rows.bits, scales, shifts, strict=True))
    ]


def _reasons(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("relative_error", "damage", "predicted_damage", "saved_by_own_grids")
    return {name: report[name] for name in names if name in report}


def _shift(where: str, entries: list[OwnEntry], channels: np.ndarray | None) -> np.ndarray | None:
    """(steps, channels), (steps, 1), or None for zero at all steps."""
    given = [entry["shift"] for entry in entries]
    if CHANNELS in given:
        if channels is None or len(channels) != len(entries) or any(one != CHANNELS for one in given):
            raise UserError(
                f"{where}: shift per channel",
                got="none in the npz beside it" if channels is None else "another number of steps",
                remedy=TOGETHER,
            )
        return channels
    if all(one is None for one in given):
        return None
    return np.array([[one or 0.0] for one in given], np.float32)


def _arrays(path: Path, told: Arrays) -> dict[str, np.ndarray]:
    if told["file"] is None:
        return {}
    companion = inside(path.parent, told["file"], f"{path}: arrays: file")
    arrays = read_npz(companion)
    if _digest(arrays) != told["digest"]:
        raise UserError(str(companion), got=f"arrays of another config than {path.name}", remedy=TOGETHER)
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    parts = [part for name in sorted(arrays) for part in (name, np.ascontiguousarray(arrays[name]).tobytes())]
    return plan.digest(*parts)
