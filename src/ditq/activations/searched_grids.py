"""What the methods that search for grids of least output error have in common: bits, shifts and channel factors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, TypeVar, get_args

import mlx.core as mx
import numpy as np
from jaxtyping import Float32

from ditq.activations.bits import BitChoice, ByError, Judged, bits_asked
from ditq.activations.decision import Decision, Kind, Weights
from ditq.activations.grid_search import NORM, Inputs, Range, find_grid, search_cost
from ditq.activations.smooth import POLICIES, Smoothing
from ditq.activations.smoothing_gate import smoothing_factors
from ditq.activations.tiers import TIERS, reach_of
from ditq.core.activation_grid import ActivationGrid, GridRows, TimestepGrid
from ditq.core.cost import Cost
from ditq.core.errors import DitqError, UserError
from ditq.core.methods import built
from ditq.core.schema import checked, shown
from ditq.core.spec import Spec
from ditq.diagnostics import Damage, DamageRecipe, InputStatistics, LayerStatistics, ObservedInput

M = TypeVar("M", bound="SearchedGrids")
CHANNELS: Kind = "channels"
Tried = dict[tuple[int, Kind], tuple[GridRows, float]]
"""An input's candidates at one timestep by bits and kind of shift, each with its output error."""


@dataclass(frozen=True)
class SearchedGrids:
    """How bits, ranges, shifts and channel factors are chosen."""

    bits: BitChoice
    how: Range = "mse"
    norm: float = NORM
    """The exponent of the error that grids minimise: 2 is the mean squared error."""
    smoothing: Smoothing = field(default_factory=Smoothing)
    shift_gain: float = 0.02
    """The part of the error that a shift must save, over the layer's timesteps, to be worth its bias table."""
    damage: Damage | None = None
    """What errors cost at the end of the trajectory, by which all is chosen; None: by their layer's output."""
    measure: DamageRecipe | None = None
    """How that is to be measured before anything is decided, where it is not at hand; see `by_damage`."""

    NUMBERS: ClassVar[tuple[str, ...]] = ("norm", "shift_gain")
    """The fields that a recipe gives as plain numbers."""

    def __post_init__(self) -> None:
        for name in self.NUMBERS:
            value, least = getattr(self, name), 1.0 if name == "norm" else -np.inf
            if not (np.isfinite(value) and value >= least):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(flag, got=value, expected="at least 1" if least == 1 else "a finite number")

    @classmethod
    def from_recipe(cls: type[M], asked: Mapping[str, Any], weights: Spec, where: str) -> M:
        """The method for a recipe's keys; without "smooth" there are no factors, which move error into the weights.

        `weights` is the grid that factors are judged on. Raises UserError, beginning with `where`.
        """
        known = ("bits", "average_bits", "scale", "smooth", "damage", *cls.NUMBERS)
        unknown = sorted(set(asked) - set(known))
        if unknown:
            raise UserError(where, got=", ".join(unknown), expected=f"some of {', '.join(known)}")
        scale, smooth = asked.get("scale", "mse"), asked.get("smooth", "none")
        if scale not in get_args(Range):
            raise UserError(f"{where}: scale", got=shown(scale), expected=" or ".join(get_args(Range)))
        if smooth not in POLICIES:
            raise UserError(f"{where}: smooth", got=shown(smooth), expected=" or ".join(POLICIES))
        asked_for = {name: asked.get(name, getattr(cls, name)) for name in cls.NUMBERS}
        numbers: dict[str, Any] = {
            name: float(checked(value, float, f"{where}: {name}")) for name, value in asked_for.items()
        }
        if not numbers["norm"] >= 1:
            raise UserError(f"{where}: norm", got=numbers["norm"], expected="at least 1")
        smoothing = Smoothing(smooth, weights=weights)
        damage = asked.get("damage")
        measure = (
            None if damage is None else built({"damage": DamageRecipe}, "damage", damage, f"{where}: damage")
        )
        return cls(bits_asked(asked, where), how=scale, smoothing=smoothing, measure=measure, **numbers)

    def by_damage(self: M, damage: Damage) -> M:
        """The method with what it asked to be measured."""
        return replace(self, damage=damage, measure=None)

    def to_json(self) -> dict[str, Any]:
        """The method as JSON values."""
        return {
            "bits": {"by": type(self.bits).__name__, **asdict(self.bits)},  # pyright: ignore[reportArgumentType]
            "range": self.how,
            "norm": self.norm,
            "smoothing": {**asdict(self.smoothing), "weights": asdict(self.smoothing.weights)},
            "shift_gain": self.shift_gain,
            **({} if self.damage is None else {"damage": self.damage.digest}),
        }

    def search(
        self, statistics: LayerStatistics, weights: Weights, on_step: Callable[[], None] = lambda: None
    ) -> tuple[Decision, dict[str, float]]:
        """A grid of its own for each input and timestep; and each input's output error, summed over the timesteps.

        `weights` is asked only where a layer has isolated spikes.
        """
        if self.measure is not None:
            raise DitqError("grids by damage were asked for, and the damage was not measured: by_damage(...)")
        reports: dict[str, dict[str, Any]] = {source: {} for source in statistics.groups}
        factors = smoothing_factors(statistics, weights, self.smoothing, self.bits, reports)
        judged: dict[str, list[Judged]] = {source: [] for source in statistics.groups}
        candidates: dict[str, list[Tried]] = {source: [] for source in statistics.groups}
        for step in statistics.steps:
            for source, found, inputs in self.observed(statistics, step, factors):
                one, tried = self._candidates(found, inputs, source in factors)
                judged[source].append(one)
                candidates[source].append(tried)
            on_step()
        chosen = self.bits.choose(judged)
        grids: dict[str, ActivationGrid] = {}
        own: dict[str, float] = {}
        for source, steps in candidates.items():
            kind, errors = self._kind(steps, chosen[source])
            rows = [tried[b, kind][0] for tried, b in zip(steps, chosen[source], strict=True)]
            smooth = mx.array(factors[source]) if source in factors else None
            grids[source] = TimestepGrid(statistics.timesteps, GridRows.joined(rows), smooth)
            own[source] = errors[kind]
            if self.damage is not None:
                reports[source] |= {"damage": errors, "predicted_damage": errors[kind]}
                continue
            energy = sum(one.energy or 0.0 for one in judged[source]) or 1.0
            reports[source]["relative_error"] = {name: error / energy for name, error in errors.items()}
        ranges = {source: np.array([one.reach.range for one in steps]) for source, steps in judged.items()}
        return Decision.of(statistics, grids, ranges=ranges, reports=reports), own

    def cost(self, inputs: Sequence[ObservedInput], steps: int) -> Cost:
        """A search for each input, step, number of bits and kind of shift."""
        bits = len(TIERS) if isinstance(self.bits, ByError) else 1
        total = Cost()
        for one in inputs:
            for kind in self._kinds(one.shifted):
                total += search_cost(one.sample * one.channels, kind, self.how).times(bits * steps)
        return total

    def kinds(self, found: InputStatistics) -> list[Kind]:
        """The kinds of shift that are tried for an input, the simplest first."""
        return self._kinds(found.shift is not None)

    def _kinds(self, shifted: bool) -> list[Kind]:
        return ["none", "tensor", *([CHANNELS] if shifted else [])]

    def observed(
        self, statistics: LayerStatistics, step: int, smooth: Mapping[str, Float32[np.ndarray, "_"]]
    ) -> Iterator[tuple[str, InputStatistics, Inputs]]:
        """Each observed input's statistics at a step, and its sample, divided by its channel factors.

        By damage, the sample is that of all recorded steps that this one stands for, each with its own importance.
        """
        at = statistics.at(step)
        if self.damage is None:
            weighed = {source: Inputs.of(found) for source, found in at.items()}
        else:
            weighed = _by_damage(statistics, step, at, self.damage)
        for source, found in at.items():
            mx.clear_cache()  # samples differ in size: buffers of earlier ones serve nothing, and would add up
            inputs = weighed.pop(source)
            yield source, found, inputs.smoothed(smooth[source]) if source in smooth else inputs

    def _candidates(self, found: InputStatistics, inputs: Inputs, smoothed: bool) -> tuple[Judged, Tried]:
        """The grids of every number of bits and kind of shift, and what the choice of bits looks at."""
        reach, kinds, tried = reach_of(found), self.kinds(found), Tried()
        for bits in self.bits.options(reach, smoothed):
            for kind in kinds:
                grid = find_grid(inputs, bits, kind, self.how, self.norm)
                tried[bits, kind] = (grid, inputs.error(grid))
        errors = {b: min(e for (own, _), (_, e) in tried.items() if own == b) for b, _ in tried}
        size = found.count * len(found.abs_min)
        energy = inputs.energy if self.damage is None else None
        return Judged(reach, errors, size, energy, smoothed), tried

    def _kind(self, steps: list[Tried], bits: list[int]) -> tuple[Kind, dict[Kind, float]]:
        """The simplest kind of shift that no costlier one betters by `shift_gain`, and each kind's total error."""
        kinds: list[Kind] = list(dict.fromkeys(kind for _, kind in steps[0]))
        errors: dict[Kind, float] = {
            kind: sum(tried[b, kind][1] for tried, b in zip(steps, bits, strict=True)) for kind in kinds
        }
        best = kinds[0]
        for kind in kinds[1:]:
            if errors[kind] < (1 - self.shift_gain) * errors[best]:
                best = kind
        return best, errors


def _by_damage(
    statistics: LayerStatistics, step: int, at: Mapping[str, InputStatistics], damage: Damage
) -> dict[str, Inputs]:
    """The samples at a step, each channel's errors counted by what they cost at the end of the trajectory."""
    each, behind = statistics.each, statistics.behind(step)
    parts: dict[str, list[Inputs]] = {source: [] for source in at}
    for one in behind:
        row = each.steps.index(one)
        for source, found in (at if behind == [step] else each.at(one)).items():
            parts[source].append(Inputs.of(found, damage.importance(source, each.timesteps)[row]))
    if len(behind) == 1:
        return {source: own[0] for source, own in parts.items()}
    return {source: Inputs.joined(own, at[source].shift) for source, own in parts.items()}
