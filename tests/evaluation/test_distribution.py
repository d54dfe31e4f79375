"""Scores of whole sets of pictures by variant, their tables and their sentences."""

from typing import ClassVar

import numpy as np

from ditq.evaluation.distribution import as_facts, by_network, set_scores, set_table, sets_told
from ditq.evaluation.features import Extracted
from ditq.evaluation.metrics import SET_METRICS


class Network:
    """Says which metrics serve; the features are given."""

    name, title, fingerprint = "toy", "a toy", "1"
    metrics: ClassVar = {"frechet": "toy distance", "class_score": "toy score"}

    def __call__(self, pictures):
        raise AssertionError("nothing is to be extracted")


def extracted(seed, shift=0.0, count=40):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, 3)).astype(np.float32) + np.float32(shift)
    return Extracted(rows, rng.dirichlet(np.ones(5), count).astype(np.float32))


def moved(one, by):
    return Extracted(one.features + np.float32(by), one.probabilities)


FLOAT, OTHER = extracted(0), extracted(1)
SETS = {"float": FLOAT, "near": moved(FLOAT, 0.01), "far": moved(FLOAT, 3.0), "float, other seeds": OTHER}


def scores(reference=None):
    return set_scores(Network(), SETS, "float", "float, other seeds", reference)


def test_without_a_folder_the_reference_is_the_float_model_from_other_seeds():
    found = scores()
    assert [one.variant for one in found] == ["float", "near", "far"] * 2
    metric = SET_METRICS["frechet"]()
    values = [metric.distance(OTHER.features.astype(float), SETS[one].features.astype(float)) for one in SETS]
    assert [one.found.value for one in found[:3]] == values[:3]
    assert found[2].found.change == values[2] - values[0]
    assert [one.found.told_apart for one in found[:3]] == [False, False, True]
    assert found[0].metric == "toy distance" and found[3].metric == "toy score"
    assert found[3].found.value == SET_METRICS["class_score"]().distance(
        OTHER.probabilities, FLOAT.probabilities.astype(float)
    )


def test_with_a_folder_the_other_seeds_are_a_row_like_the_others():
    photographs = extracted(2, 1.0, 60)
    found = scores(photographs)
    assert [one.variant for one in found[:4]] == list(SETS) and found[0].reference == 60
    wanted = SET_METRICS["frechet"]().distance(
        photographs.features.astype(float), FLOAT.features.astype(float)
    )
    assert found[0].found.value == wanted


def test_tables_have_a_row_for_each_variant_and_one_for_chance():
    ((network, own),) = by_network(scores()).items()
    assert network == "a toy"
    table = set_table(own)
    assert [row[0] for row in table] == ["variant", "float", "near", "far", "chance: two float sets"]
    assert table[0][1:] == ["toy distance (lower is better)", "toy score (higher is better)"]
    assert "(" not in table[1][1] and "(+" in table[3][1] and "95 %" in table[4][1]


def test_sentences_name_what_is_not_told_apart_and_what_is_too_few():
    told = sets_told(scores(), "float", False)
    assert told[0].startswith("40 pictures of each variant against 40 of the float model from other seeds")
    assert "near cannot be told from float at this number of pictures by toy distance, toy score." in told
    assert not any(line.startswith("far ") and "distance" in line for line in told)
    assert "the reference folder" in sets_told(scores(), "float", True)[0]
    wide = {name: Extracted(np.repeat(one.features, 20, 1), one.probabilities) for name, one in SETS.items()}
    few = sets_told(set_scores(Network(), wide, "float", "float, other seeds", None), "float", False)
    assert any("40 pictures do not determine a covariance of 60 features" in line for line in few)


def test_facts_are_plain():
    facts = as_facts(scores()[2])
    assert facts["variant"] == "far" and facts["told_apart"] is True
    assert set(facts["floor"]) == {"median", "worst", "pictures"}
    assert facts["found"]["change_low"] <= facts["found"]["change"] <= facts["found"]["change_high"]
