"""Whether a variant's pictures, taken as a set, are still like a reference's: distances of distributions.

The reference is a folder of pictures, such as photographs, or else what the float model draws from other seeds. Every
variant is compared with it, and so is the float model: what counts is the change from the float model's value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ditq.evaluation.features.base import Extracted, FeatureNetwork
from ditq.evaluation.metrics import SET_METRICS
from ditq.evaluation.metrics.sets import Features, Floor, SetMetric, SetResult


@dataclass(frozen=True)
class SetScore:
    """What one metric says of one variant's pictures."""

    variant: str
    network: str
    metric: str
    """Its name on the features of this network."""
    better: str
    found: SetResult
    floor: Floor
    pictures: int
    reference: int
    """Pictures in the reference's set."""
    few: str | None
    """Why the value says little at this number of pictures."""


def set_scores(
    network: FeatureNetwork,
    sets: Mapping[str, Extracted],
    baseline: str,
    other: str,
    reference: Extracted | None,
) -> list[SetScore]:
    """The metrics of a network for each of `sets`, features by variant.

    `baseline` and `other` are the float model's among them, of the variants' seeds and of others; the latter are the
    reference where there is no other, and are not scored then. Raises UserError for fewer than 20 pictures.
    """
    scores: list[SetScore] = []
    target = sets[other] if reference is None else reference
    names = [name for name in sets if reference is not None or name != other]
    for key, title in network.metrics.items():
        metric = SET_METRICS[key]()
        of = {name: _read(metric, one) for name, one in sets.items()}
        whole = _read(metric, target)
        floor = metric.floor(of[baseline], of[other])
        sampled = {name: metric.sampled(whole, of[name]) for name in names}
        for name in names:
            found = SetResult.of(sampled[name], sampled[baseline])
            few = metric.few(min(len(target), len(of[name])), whole.shape[1])
            facts = (found, floor, len(of[name]), len(target), few)
            scores.append(SetScore(name, network.title, title, metric.better, *facts))
    return scores


def by_network(scores: Sequence[SetScore]) -> dict[str, list[SetScore]]:
    """The scores of each network, which a table shows."""
    return {
        network: [one for one in scores if one.network == network]
        for network in dict.fromkeys(one.network for one in scores)
    }


def set_table(scores: Sequence[SetScore]) -> list[list[str]]:
    """A row for each variant, then the noise floor: value and change of each metric of one network."""
    metrics = {one.metric: one for one in scores}
    body = [
        [variant, *(_cell(one) for one in scores if one.variant == variant)]
        for variant in dict.fromkeys(one.variant for one in scores)
    ]
    floor = [f"{one.floor.median:.4g} (95 %: {one.floor.worst:.4g})" for one in metrics.values()]
    heading = ["variant", *(f"{name} ({one.better} is better)" for name, one in metrics.items())]
    return [heading, *body, ["chance: two float sets", *floor]]


def sets_told(scores: Sequence[SetScore], baseline: str, from_folder: bool) -> list[str]:
    """What the table of one network's scores holds, and what its figures do not say."""
    first = scores[0]
    source = "the reference folder" if from_folder else "the float model from other seeds"
    lines = [
        f"{first.pictures} pictures of each variant against {first.reference} of {source}, by the features of "
        f"{first.network}. In brackets: the change from the row {baseline}, with its 95 % interval (a jackknife over "
        "tenths of the prompts, the same pictures left out of both). The last row is what two sets of the float "
        "model's own pictures score against each other: a median, and what 95 % of them stay within."
    ]
    lines += dict.fromkeys(
        f"{one.metric[0].upper()}{one.metric[1:]}: {one.few}." for one in scores if one.few
    )
    for variant in dict.fromkeys(one.variant for one in scores if one.variant != baseline):
        blind = [one.metric for one in scores if one.variant == variant and not one.found.told_apart]
        if blind:
            lines.append(
                f"{variant} cannot be told from {baseline} at this number of pictures by {', '.join(blind)}."
            )
    return lines


def as_facts(score: SetScore) -> dict[str, Any]:
    """A score as JSON holds it."""
    own = {**vars(score), "found": vars(score.found), "floor": vars(score.floor)}
    return {**own, "told_apart": score.found.told_apart}


def _read(metric: SetMetric, one: Extracted) -> Features:
    return one.probabilities if metric.reads == "probabilities" else one.features


def _cell(score: SetScore) -> str:
    found = score.found
    if found.change_low == found.change_high == 0:
        return f"{found.value:.4g}"
    return f"{found.value:.4g} ({found.change:+.3g}: {found.change_low:+.3g} to {found.change_high:+.3g})"
