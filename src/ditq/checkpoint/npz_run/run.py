"""What adaround_optimize wrote, as a checkpoint: config.json, and weights/mm{N}.npz for every block."""

from collections.abc import Mapping
from dataclasses import replace
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np

from ditq.activations import ActivationTable
from ditq.activations.quant_config import read_quant_config
from ditq.checkpoint.checkpoint import ModelName, QuantizedCheckpoint
from ditq.checkpoint.inject import check_grid
from ditq.checkpoint.npz_run.block_file import MIDDLE, StaticGrids, Weights, block_file, read_block
from ditq.checkpoint.origin import Origin
from ditq.core.activation_grid import TimestepGrid
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_stored_json
from ditq.core.remedies import again, command
from ditq.core.schema import FILLED, at_least, checked, shown

KIND, VERSION = "ditq.adaround", 1
MADE_BY = "adaround_optimize"
Bits = Literal[2, 3, 4, 5, 6, 7, 8, 16]
"""Of activations; 16: they stay as they are."""
Blocks = Annotated[list[Annotated[int, at_least(0)]], FILLED]


class Report(TypedDict):
    """What is read of a block's report."""

    block: int


class Config(TypedDict):
    """What is read of config.json."""

    model: ModelName
    quantized_blocks: Blocks
    recipe: dict[str, Any]
    bits_a: Bits


class WholeConfig(Config, total=False):
    """The same with what runs of earlier versions do not say."""

    made_from: Origin | None
    calibration_prompts: list[str]
    per_block: list[Report]


def read_adaround(folder: Path, quant_config: Path | None = None) -> QuantizedCheckpoint:
    """The quantized weights, with the activation grids of `quant_config`, or else the static ones learned with them.

    Raises UserError for another kind of folder, a run that is not finished, a block that is missing, and a
    `quant_config` whose smoothing is not that of the weights.
    """
    config = read_config(folder)
    weights: Weights = {}
    static: StaticGrids = {}
    for number in config["quantized_blocks"]:
        if not block_file(folder, number).exists():
            raise UserError(
                str(block_file(folder, number)),
                got="no such file",
                expected=f"all {len(config['quantized_blocks'])} blocks that config.json names",
                remedy=f"copy it again, or {again('adaround_optimize')}",
            )
        layers, grids, _ = read_block(folder, number, config["bits_a"] if config["bits_a"] <= 8 else None)
        weights |= layers
        static |= grids
    meta: dict[str, Any] = {"adaround": config["recipe"]}
    if "calibration_prompts" in config:
        meta["calibration_prompts"] = config["calibration_prompts"]
    checkpoint = QuantizedCheckpoint(
        config["model"], weights, static_table(static), meta, config.get("made_from")
    )
    return with_grids(checkpoint, quant_config)


def with_grids(checkpoint: QuantizedCheckpoint, quant_config: Path | None) -> QuantizedCheckpoint:
    """The checkpoint with the activation grids of a quant_config.json in place of its own; None leaves them."""
    if quant_config is None:
        return checkpoint
    table = read_quant_config(quant_config)
    for path, weight in checkpoint.weights.items():
        if path in table.grids:
            check_grid(path, table.grids[path], weight, table.timesteps)
    return replace(checkpoint, activations=table)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a finished run. Raises UserError for another kind of folder."""
    path = folder / "config.json"
    if not path.exists():
        raise _no_checkpoint(folder)
    config: dict[str, Any] = dict(
        checked(read_stored_json(path, KIND, VERSION, MADE_BY), WholeConfig, str(path))
    )
    numbers, bits = config["quantized_blocks"], config["bits_a"]
    if numbers != sorted(set(numbers)):
        raise UserError(f"{path}: quantized_blocks", got=shown(numbers), expected="each block once, rising")
    told = [report["block"] for report in config.get("per_block", [])]
    if told and told != numbers:
        expected = f"{shown(told)}, as per_block has them"
        raise UserError(f"{path}: quantized_blocks", got=shown(numbers), expected=expected)
    if config["recipe"].get("bits_a", bits) != bits:
        expected = f"{shown(config['recipe']['bits_a'])}, as its recipe says"
        raise UserError(f"{path}: bits_a", got=bits, expected=expected)
    return config


def static_table(grids: Mapping[str, TimestepGrid]) -> ActivationTable | None:
    """The table of static grids: one row for all timesteps. None without grids."""
    return ActivationTable(np.array([MIDDLE], np.float32), dict(grids)) if grids else None


def _no_checkpoint(folder: Path) -> UserError:
    """The error of a folder without config.json: what it is in truth, and which folder to give in its place."""
    what, expected = str(folder), "a quantized checkpoint"
    if folder.is_file():
        remedy = f"name the folder that it lies in: {folder.parent}"
        return UserError(what, got="a file", expected="the folder of a quantized checkpoint", remedy=remedy)
    if _plan(folder).get("kind") == KIND:
        return UserError(what, got="a run that is not finished", remedy=again(MADE_BY))
    places = (folder / "work", folder, Path(normpath(folder / "..")))
    work = [place for place in places if folder.is_dir() and _plan(place).keys() >= {"recipe", "amounts"}]
    if work:
        above = Path(normpath(work[0] / ".."))
        finished = (above / "config.json").exists()
        got = "a folder that quantize works in" if finished else "a run that is not finished"
        remedy = f"name the folder above: {above}" if finished else again("quantize")
        return UserError(what, got=got, expected=expected, remedy=remedy)
    if folder.is_dir() and any(folder.iterdir()):
        remedy = "name the folder that quantize, export_checkpoint or adaround_optimize wrote"
        return UserError(what, got="another folder", expected=expected, remedy=remedy)
    remedy = f"make it: {command('quantize', '--recipe', 'w4a8-qronos', '--out', folder)}"
    return UserError(str(folder / "config.json"), got="no such file", expected=expected, remedy=remedy)


def _plan(folder: Path) -> dict[str, Any]:
    """The plan of the run in a folder, or {}. That of quantize lies in `work`: a recipe and amounts, but no kind."""
    plan = read_json(folder / "plan.json") if (folder / "plan.json").exists() else {}
    return plan if isinstance(plan, dict) else {}
