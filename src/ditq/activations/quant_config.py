"""quant_config.json, which step 3A hands to the weight track and to inference; and its reader.

quant_config.json  kind, version, "scale": "step", model, images; sigma_map {step: sigma}; noise, where it is not
                   rectified flow; method: what decided;
                   per_timestep {step: {layer: {bits, scale, shift}}}: shift is a number (the centre of the grid), null
                   for zero, or "channels"; smooth {layer: "channels"} of the layers with factors; outliers; summary
quant_config.npz   beside it, where there are such arrays: {layer}::shift (steps, channels), {layer}::smooth
                   (channels,), float32; layers that share an input share the arrays of the first, as "arrays" says
Grids of any kind are stored as their rows at the calibrated timesteps.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.activations.decision import Decision, kind_of
from ditq.activations.table import ActivationTable
from ditq.core import plan
from ditq.core.activation_grid import ActivationGrid, GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.files import read_npz, read_stored_json, remove, write_json, write_npz
from ditq.diagnostics import LayerStatistics
from ditq.diagnostics.layer_files import noise_entry
from ditq.sampling.schedules import PROCESSES, noise_of

KIND, VERSION, MADE_BY = "ditq.quant_config", 1, "analyze_activations"
CHANNELS = "channels"


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
        "per_timestep": per_timestep,
    }
    write_json(path, config)


def read_quant_config(path: Path) -> ActivationTable:
    """The activation grids of a config. Raises UserError, naming layer and step, for what is missing or senseless."""
    config = read_stored_json(path, KIND, VERSION, MADE_BY)
    if "noise" in config and config["noise"] not in list(PROCESSES):
        expected = f"one of {', '.join(PROCESSES)}"
        raise UserError(f"{path}: noise", got=config["noise"], expected=expected)
    if config.get("scale") != "step":
        raise UserError(f"{path}: scale", got=config.get("scale"), expected="step")
    try:
        arrays = _arrays(path, config["arrays"])
        steps = sorted(config["per_timestep"], key=lambda step: -config["sigma_map"][step])
        sources = config["arrays"]["of"]
        layers = list(config["per_timestep"][steps[0]]) if steps else []
        sigmas = np.array([config["sigma_map"][step] for step in steps], np.float64)
        timesteps = noise_of(config).timesteps(sigmas).astype(np.float32)
        grids: dict[str, ActivationGrid] = {}
        for layer in layers:
            entries = [config["per_timestep"][step][layer] for step in steps]
            for step, entry in zip(steps, entries, strict=True):
                _check(f"{path}: {layer} at step {step}", entry)
            source = sources.get(layer, layer)
            smooth = mx.array(arrays[f"{source}::smooth"]) if layer in config["smooth"] else None
            shift = _shift(f"{path}: {layer}", entries, arrays.get(f"{source}::shift"))
            grids[layer] = TimestepGrid(timesteps, _rows(entries, shift), smooth)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(str(path), got=f"no {error}", expected=f"a file of {MADE_BY}") from error
    if not layers:
        raise UserError(str(path), got="no layers", expected=f"a file of {MADE_BY}")
    return ActivationTable(timesteps, grids)


def _rows(entries: list[dict[str, Any]], shift: np.ndarray | None) -> GridRows:
    scale = np.array([entry["scale"] for entry in entries], np.float32)
    return GridRows.of([entry["bits"] for entry in entries], scale, shift)


def _entries(rows: GridRows) -> list[dict[str, Any]]:
    """One entry for each row: float32 numbers, so that a config read and written again is the same file."""
    kind = kind_of(rows)
    shifts: list[Any] = [None if kind == "none" else CHANNELS] * len(rows)
    if kind == "tensor":
        shifts = np.array(rows.shift)[:, 0].tolist()
    scales = np.array(rows.scale).tolist()
    return [
        {"bits": bits, "scale": scale, "shift": shift}
        for bits, scale, shift in zip(rows.bits, scales, shifts, strict=True)
    ]


def _reasons(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("relative_error", "saved_by_own_grids") if name in report}


def _shift(where: str, entries: list[dict[str, Any]], channels: np.ndarray | None) -> np.ndarray | None:
    """(steps, channels), (steps, 1), or None for zero at all steps."""
    given = [entry["shift"] for entry in entries]
    if CHANNELS in given:
        if channels is None or len(channels) != len(entries) or any(one != CHANNELS for one in given):
            raise UserError(
                f"{where}: shift per channel",
                got="none in the npz beside it" if channels is None else "another number of steps",
                remedy=f"keep both files of {MADE_BY} together",
            )
        return channels
    if all(one is None for one in given):
        return None
    return np.array([[one or 0.0] for one in given], np.float32)


def _check(where: str, entry: dict[str, Any]) -> None:
    bits, scale, shift = entry["bits"], entry["scale"], entry["shift"]
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise UserError(f"{where}: bits", got=bits, expected="from 2 to 8")
    if not (isinstance(scale, float | int) and 0 < scale < float("inf")):
        raise UserError(f"{where}: scale", got=scale, expected="a number above 0")
    if not (
        shift is None or shift == CHANNELS or (isinstance(shift, float | int) and abs(shift) < float("inf"))
    ):
        raise UserError(f"{where}: shift", got=shift, expected=f"a number, null or {CHANNELS}")


def _arrays(path: Path, told: dict[str, Any]) -> dict[str, np.ndarray]:
    if told["file"] is None:
        return {}
    companion = path.parent / told["file"]
    arrays = read_npz(companion)
    if _digest(arrays) != told["digest"]:
        remedy = f"keep both files of {MADE_BY} together, or run it again"
        raise UserError(str(companion), got=f"arrays of another config than {path.name}", remedy=remedy)
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    parts = [part for name in sorted(arrays) for part in (name, np.ascontiguousarray(arrays[name]).tobytes())]
    return plan.digest(*parts)
