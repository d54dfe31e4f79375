"""How the bits of every layer and timestep are chosen: by size, by error under a budget, or the same for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np

from ditq.activations.budget import allocate
from ditq.activations.tiers import TIERS, Reach, Tiers
from ditq.core.errors import UserError
from ditq.core.schema import checked, shown, within
from ditq.core.spec import is_whole


@dataclass(frozen=True)
class Judged:
    """What is known of one input at one timestep."""

    reach: Reach
    errors: dict[int, float]
    """The output error by bits, those that `options` named."""
    size: int
    """Values that the input had over the calibration."""
    energy: float | None
    """What errors are relative to; None: they are comparable as they are."""
    smoothed: bool
    """Whether it has channel factors."""


class BitChoice(Protocol):
    """A way to choose bits."""

    def options(self, reach: Reach, smoothed: bool) -> Sequence[int]:
        """The bits whose grids are to be searched."""
        ...

    def choose(self, judged: Mapping[str, list[Judged]]) -> dict[str, list[int]]:
        """The bits of each input at each timestep."""
        ...


@dataclass(frozen=True)
class ByTier:
    """Bits by the size of the values: cheap, and blind to what an error costs."""

    tiers: Tiers = field(default_factory=Tiers)

    def options(self, reach: Reach, smoothed: bool) -> Sequence[int]:
        """The tier."""
        return (self.tiers.bits(reach, smoothed),)

    def choose(self, judged: Mapping[str, list[Judged]]) -> dict[str, list[int]]:
        """The tiers."""
        return {
            path: [self.tiers.bits(one.reach, one.smoothed) for one in steps]
            for path, steps in judged.items()
        }


@dataclass(frozen=True)
class Fixed:
    """The same bits for all."""

    bits: int = 8

    def __post_init__(self) -> None:
        if not is_whole(self.bits) or not 2 <= self.bits <= 8:
            raise UserError("--bits", got=self.bits, expected="from 2 to 8")

    def options(self, reach: Reach, smoothed: bool) -> Sequence[int]:
        """These bits."""
        return (self.bits,)

    def choose(self, judged: Mapping[str, list[Judged]]) -> dict[str, list[int]]:
        """These bits."""
        return {path: [self.bits] * len(steps) for path, steps in judged.items()}


@dataclass(frozen=True)
class ByError:
    """The least sum of relative output errors, or of damages, at an average of bits per activation value.

    Output errors are relative to the layer's output over all timesteps, so that a loud layer does not outvote the
    others while a loud timestep still counts for more. An input that several layers share counts once.
    """

    average_bits: float = 6.0

    def __post_init__(self) -> None:
        if not TIERS[0] <= self.average_bits <= TIERS[-1]:  # NaN is outside too
            expected = f"at least {TIERS[0]}, at most {TIERS[-1]}"
            raise UserError("--average-bits", got=self.average_bits, expected=expected)

    def options(self, reach: Reach, smoothed: bool) -> Sequence[int]:
        """All tiers' bits."""
        return TIERS

    def choose(self, judged: Mapping[str, list[Judged]]) -> dict[str, list[int]]:
        """The allocation of `budget.allocate`."""
        errors, sizes = [], []
        for steps in judged.values():
            energies = [one.energy for one in steps if one.energy is not None]
            energy = sum(energies) or 1.0
            errors += [[one.errors[b] / energy for b in TIERS] for one in steps]
            sizes += [float(one.size) for one in steps]
        options = allocate(np.array(errors), TIERS, np.array(sizes), self.average_bits)
        found = iter(TIERS[option] for option in options)
        return {path: [next(found) for _ in steps] for path, steps in judged.items()}


def bits_asked(asked: Mapping[str, Any], where: str) -> BitChoice:
    """The choice that a recipe's "bits" and "average_bits" name. Raises UserError, beginning with `where`."""
    bits, average = asked.get("bits"), asked.get("average_bits")
    if average is not None and bits != "error":
        raise UserError(f"{where}: average_bits", got=shown(average), expected='none without "bits": "error"')
    if bits == "tiers":
        return ByTier()
    if bits == "error":
        return ByError() if average is None else ByError(_average(average, where))
    if bits is None or not is_whole(bits) or not 2 <= bits <= 8:
        raise UserError(f"{where}: bits", got=shown(bits), expected='from 2 to 8, "tiers" or "error"')
    return Fixed(bits)


def _average(average: Any, where: str) -> float:
    return float(checked(average, Annotated[float, within(TIERS[0], TIERS[-1])], f"{where}: average_bits"))
