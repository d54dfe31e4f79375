"""What an error in a layer's input costs at the end of a trajectory: the file of `measure_damage`, and its reader.

steps (steps,) int64: the steps at which gradients were measured      {input}::squares (steps, channels) float64
noise_steps (noise_steps,) int64: those at which noise was added      remaining (noise_steps,) float64
__meta__ JSON text: kind, version, producer, model, weights, dtype, noise, images, sigmas and the recipe
`{input}` is the path of the layer that was observed; `squares` the mean square of the guided prediction's change by a
unit of squared error in a channel; `remaining` the final latents' change by the prediction's, mean squares both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from jaxtyping import Float, Float64, Int64

from ditq.calibration.stored import check_array
from ditq.core import plan
from ditq.core.activation_grid import nearest_rows
from ditq.core.errors import UserError
from ditq.core.files import read_npz, stored_meta, write_npz
from ditq.core.schema import FILLED, checked, within
from ditq.diagnostics.layer_files import LayerStatistics
from ditq.sampling.schedules import PROCESSES, noise_of

KIND, VERSION, MADE_BY = "ditq.damage", 1, "measure_damage"
SQUARES = "::squares"


class Meta(TypedDict):
    """What is read of `__meta__`."""

    model: str
    weights: str
    sigmas: Annotated[list[Annotated[float, within(0, 1)]], FILLED]


@dataclass(frozen=True, eq=False)
class Damage:
    """The cost of errors in every observed input, by step and channel."""

    meta: dict[str, Any]
    steps: Int64[np.ndarray, "steps"]
    squares: dict[str, Float64[np.ndarray, "steps channels"]]
    noise_steps: Int64[np.ndarray, "noise_steps"]
    remaining: Float64[np.ndarray, "noise_steps"]

    @property
    def trajectory(self) -> Float64[np.ndarray, "trajectory"]:
        """The timestep of every step of the trajectory."""
        sigmas = np.array(self.meta["sigmas"][:-1], np.float64)
        return noise_of(self.meta).timesteps(sigmas)

    @cached_property
    def digest(self) -> str:
        """What stands for it in the files that are made with it."""
        arrays = [self.squares[source].tobytes() for source in sorted(self.squares)]
        return plan.digest(repr(sorted(self.meta.items())), self.remaining.tobytes(), *arrays)

    def left(self, timesteps: Float[np.ndarray, "wanted"]) -> Float64[np.ndarray, "wanted"]:
        """The part that remains of an error at some timesteps: on straight lines between the logarithms measured."""
        at = np.interp(-timesteps.astype(np.float64), -self.trajectory, np.arange(len(self.trajectory)))
        return np.exp(np.interp(at, self.noise_steps, np.log(self.remaining)))

    def importance(
        self, source: str, timesteps: Float[np.ndarray, "wanted"]
    ) -> Float64[np.ndarray, "wanted channels"]:
        """The mean square that squared errors of an input's channels add to the final latents, to first order.

        Each of the timesteps stands for an equal share of the trajectory's steps. Errors of different channels, tokens
        and steps are taken as independent.
        """
        rows = nearest_rows(self.trajectory[self.steps], timesteps)
        share = len(self.trajectory) / len(timesteps)
        return share * self.left(timesteps)[:, None] * self.squares[source][rows]

    def check(self, statistics: LayerStatistics, where: str) -> None:
        """Raises UserError, beginning with `where`, unless it is of the model and the inputs of these statistics."""
        for name in ("model", plan.WEIGHTS):
            wanted = statistics.manifest.get(name)
            if wanted is not None and self.meta[name] != wanted:
                raise UserError(
                    f"{where}: {name}", got=self.meta[name], expected=f"{wanted}, as the statistics say"
                )
        channels = {source: statistics.manifest["layers"][source]["channels"] for source in statistics.groups}
        for source, count in channels.items():
            if source not in self.squares or self.squares[source].shape[1] != count:
                got = (
                    f"{self.squares[source].shape[1]} channels" if source in self.squares else "no such input"
                )
                expected = f"{count} channels, as the statistics have"
                raise UserError(f"{where}: {source}", got=got, expected=expected)


def write_damage(path: Path, damage: Damage) -> None:
    """Writes the file that this module describes."""
    meta = {"kind": KIND, "version": VERSION, **damage.meta}
    arrays: Mapping[str, np.ndarray] = {
        "steps": damage.steps,
        "noise_steps": damage.noise_steps,
        "remaining": damage.remaining,
        **{f"{source}{SQUARES}": array for source, array in damage.squares.items()},
    }
    write_npz(path, {**arrays, "__meta__": np.array(json.dumps(meta))})


def read_damage(path: Path) -> Damage:
    """The file's content. Raises UserError for another kind of file, or arrays that cannot be."""
    arrays = read_npz(path)
    meta = stored_meta(arrays, path, KIND, VERSION, MADE_BY)
    checked(meta, Meta, str(path))
    if meta.get("noise", "rectified-flow") not in list(PROCESSES):
        raise UserError(f"{path}: noise", got=meta["noise"], expected=f"one of {', '.join(PROCESSES)}")
    last = len(meta["sigmas"]) - 2
    for name in ("steps", "noise_steps", "remaining"):
        if name not in arrays:
            raise UserError(str(path), got=f"no {name}", expected=f"a file of {MADE_BY}")
        check_array(path, name, arrays[name], (None,), "float64" if name == "remaining" else "int64")
        if name == "remaining":
            continue
        steps = arrays[name]
        if not steps.size or steps.min() < 0 or steps.max() > last or (np.diff(steps) <= 0).any():
            expected = f"rising numbers from 0 to {last}, one at least"
            raise UserError(f"{path}: {name}", got=f"{steps.tolist()[:6]}", expected=expected)
    squares = {name.removesuffix(SQUARES): array for name, array in arrays.items() if name.endswith(SQUARES)}
    check_array(path, "remaining", arrays["remaining"], arrays["noise_steps"].shape, "float64")
    for source, array in squares.items():
        check_array(path, f"{source}{SQUARES}", array, (len(arrays["steps"]), None), "float64")
    for name, array in {**squares, "remaining": arrays["remaining"]}.items():
        if (array < 0).any() or (name == "remaining" and (array == 0).any()):
            raise UserError(
                f"{path}: {name}", got=f"{array.min():g}", expected="squares, which are not below 0"
            )
    return Damage(meta, arrays["steps"], squares, arrays["noise_steps"], arrays["remaining"])
