"""quant_config.json, what step 3A hands to the weight track and to inference; and its reader.

quant_config.json  kind, version, "scale": "step", model, images; sigma_map {step: sigma};
                   per_timestep {step: {layer: {bits, scale, shift}}}: shift is a number (the centre of the grid), null
                   for zero, or "channels"; smooth {layer: "channels"} of the layers with factors; outliers; summary
quant_config.npz   beside it, where there are such arrays: {layer}::shift (steps, channels), {layer}::smooth
                   (channels,), float32; layers that share an input share the arrays of the first, as "arrays" says
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.activations.analysis import Decision
from ditq.activations.grid_search import Grid
from ditq.activations.table import ActivationTable
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, remove, write_json, write_npz
from ditq.core.spec import Spec
from ditq.diagnostics import LayerStatistics
from ditq.nn import ActivationGrid

KIND, VERSION = "ditq.quant_config", 1
CHANNELS = "channels"


def write_quant_config(
    path: Path, statistics: LayerStatistics, decision: Decision, meta: Mapping[str, Any]
) -> None:
    """Writes the decision for every layer: the arrays first, so that a config never names arrays that are not there."""
    arrays = {f"{source}::smooth": m for source, m in decision.smooth.items()}
    for source, kind in decision.kinds.items():
        if kind == "channels":
            rows = [np.asarray(grid.shift, np.float32) for grid in decision.grids[source]]
            arrays[f"{source}::shift"] = np.stack(rows)
    companion = path.with_suffix(".npz")
    remove(path)
    if arrays:
        write_npz(companion, arrays)
    else:
        remove(companion)
    layers = statistics.layers
    per_timestep = {
        str(step): {
            layer: _entry(decision.grids[source][i], decision.kinds[source])
            for layer, source in layers.items()
        }
        for i, step in enumerate(statistics.steps)
    }
    config = {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "scale": "step",
        **{name: statistics.manifest[name] for name in ("model", "images", "sigma_map")},
        **meta,
        "arrays": {
            "file": companion.name if arrays else None,
            "digest": _digest(arrays),
            "of": {layer: source for layer, source in layers.items() if layer != source},
        },
        "smooth": {layer: CHANNELS for layer, source in layers.items() if source in decision.smooth},
        "outliers": {source: report for source, report in decision.reports.items() if "spikes" in report},
        "shifts": {
            source: {
                "kind": decision.kinds[source],
                **{name: report[name] for name in ("relative_error", "saved_by_own_grids") if name in report},
            }
            for source, report in decision.reports.items()
        },
        "per_timestep": per_timestep,
    }
    write_json(path, config)


def read_quant_config(path: Path) -> ActivationTable:
    """The activation grids of a config. Raises UserError, naming layer and step, for what is missing or senseless."""
    config = read_json(path)
    found = (config.get("kind"), config.get("version")) if isinstance(config, dict) else (None, None)
    if found != (KIND, VERSION):
        raise UserError(str(path), got=f"{found[0]} version {found[1]}", expected=f"{KIND} version {VERSION}")
    if config.get("scale") != "step":
        raise UserError(f"{path}: scale", got=config.get("scale"), expected="step")
    try:
        arrays = _arrays(path, config["arrays"])
        steps = sorted(config["per_timestep"], key=lambda step: -config["sigma_map"][step])
        sources = config["arrays"]["of"]
        layers = list(config["per_timestep"][steps[0]]) if steps else []
        grids = {}
        for layer in layers:
            entries = [config["per_timestep"][step][layer] for step in steps]
            for step, entry in zip(steps, entries, strict=True):
                _check(f"{path}: {layer} at step {step}", entry)
            source = sources.get(layer, layer)
            smooth = arrays[f"{source}::smooth"] if layer in config["smooth"] else None
            shift = _shift(f"{path}: {layer}", entries, arrays.get(f"{source}::shift"))
            grids[layer] = grid_of(entries, shift, smooth)
        timesteps = np.array([1000 * config["sigma_map"][step] for step in steps], np.float32)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(str(path), got=f"no {error}", expected="a file of analyze_activations") from error
    if not layers:
        raise UserError(str(path), got="no layers", expected="a file of analyze_activations")
    return ActivationTable(timesteps, grids)


def table_of(statistics: LayerStatistics, decision: Decision) -> ActivationTable:
    """The decision as it will be read back from its file."""
    grids = {}
    for layer, source in statistics.layers.items():
        entries = [_entry(grid, decision.kinds[source]) for grid in decision.grids[source]]
        rows = None
        if decision.kinds[source] == "channels":
            rows = np.stack([np.asarray(grid.shift, np.float32) for grid in decision.grids[source]])
        shift = _shift(layer, entries, rows)
        grids[layer] = grid_of(entries, shift, decision.smooth.get(source))
    timesteps = np.array([1000 * sigma for sigma in statistics.sigmas], np.float32)
    return ActivationTable(timesteps, grids)


def grid_of(
    entries: list[dict[str, Any]], shift: np.ndarray | None, smooth: np.ndarray | None
) -> ActivationGrid:
    """The rows of one layer as inference wants them."""
    specs = [Spec(entry["bits"]) for entry in entries]
    return ActivationGrid(
        mx.array(np.array([entry["scale"] for entry in entries], np.float32)),
        mx.array(np.array([spec.qmin for spec in specs], np.float32)),
        mx.array(np.array([spec.qmax for spec in specs], np.float32)),
        None if shift is None else mx.array(shift.astype(np.float32)),
        None if smooth is None else mx.array(smooth.astype(np.float32)),
    )


def _entry(grid: Grid, kind: str) -> dict[str, Any]:
    # Rounded to float32, as it will be used, so that a config read and written again is the same file.
    shift = {"none": None, "channels": CHANNELS}.get(kind, kind)
    if shift == "tensor":
        shift = float(np.float32(grid.shift))
    return {"bits": grid.bits, "scale": float(np.float32(grid.scale)), "shift": shift}


def _shift(where: str, entries: list[dict[str, Any]], channels: np.ndarray | None) -> np.ndarray | None:
    """(steps, channels), (steps, 1), or None for zero at all steps."""
    given = [entry["shift"] for entry in entries]
    if CHANNELS in given:
        if channels is None or len(channels) != len(entries) or any(one != CHANNELS for one in given):
            raise UserError(
                f"{where}: shift per channel",
                got="none in the npz beside it" if channels is None else "another number of steps",
                remedy="keep both files of analyze_activations together",
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
        remedy = "keep both files of analyze_activations together, or run it again"
        raise UserError(str(companion), got=f"arrays of another config than {path.name}", remedy=remedy)
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    parts = [part for name in sorted(arrays) for part in (name, np.ascontiguousarray(arrays[name]).tobytes())]
    return plan.digest(*parts)
