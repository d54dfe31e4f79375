"""Limits: what is kept passes in silence, what is not is named with its figure."""

import numpy as np
import pytest

from ditq.evaluation import EvalReport, Size, VariantReport
from ditq.evaluation.gate import LIMITS, failures
from ditq.evaluation.metrics import METRICS
from ditq.evaluation.trajectory_curves import Curves


def report(psnr, latent_error=(5.0, 9.0, 30.0)) -> EvalReport:
    def one(name, scores):
        return VariantReport(name, Size(10, 16.0), 1.0, 1, scores)

    best = [60.0] * 3
    return EvalReport(
        model="toy", settings={}, prompts=["a"] * 3, seeds=[1, 2, 3],
        units={"psnr": "dB", "latent_error": "%"},
        reference=one("float", {"psnr": best, "latent_error": [0.0] * 3}),
        floor=one("other", {"psnr": [10.0] * 3, "latent_error": [90.0] * 3}),
        variants=[one("W4", {"psnr": list(psnr), "latent_error": list(latent_error)})],
        better={"psnr": "higher", "latent_error": "lower"},
        titles={"psnr": "PSNR", "latent_error": "latent error"},
        capped=["psnr"],
    )  # fmt: skip


def curves(error) -> Curves:
    return Curves("W4", 1, [1.0], error, [error], [(error, error)], [error], [0], [[error]], {"a": [error]})


def test_the_median_counts_and_the_latent_error_is_a_fraction():
    found = report([30.0, 38.0, 45.0])
    assert failures({"min_psnr": 38.0, "max_latent_error": 0.09}, found, []) == []
    assert failures({"min_psnr": 38.5, "max_latent_error": 0.08}, found, []) == [
        "W4: median PSNR: got 38 dB; limit at least 38.5 dB (--min-psnr)",
        "W4: median latent error: got 0.09; limit at most 0.08 (--max-latent-error)",
    ]


def test_identical_pictures_keep_any_psnr():
    assert failures({"min_psnr": 1000.0}, report([60.0, 60.0, 20.0]), []) == []
    assert "got 30 dB" in failures({"min_psnr": 1000.0}, report([60.0, 30.0, 20.0]), [])[0]


def test_the_error_of_the_prediction_and_what_is_no_number():
    assert failures({"max_velocity_error": 0.1}, report([1.0] * 3), [curves(0.1)]) == []
    assert (
        "got 0.2; limit at most 0.1"
        in failures({"max_velocity_error": 0.1}, report([1.0] * 3), [curves(0.2)])[0]
    )
    assert "got nan" in failures({"max_velocity_error": 0.1}, report([1.0] * 3), [])[0]
    assert "got nan" in failures({"max_latent_error": 1.0}, report([1.0] * 3, [np.nan] * 3), [])[0]


@pytest.mark.parametrize("limit", LIMITS.values(), ids=lambda limit: limit.flag)
def test_limits_fit_their_metrics(limit):
    if limit.metric is not None:
        assert METRICS[limit.metric]().better == ("lower" if limit.most else "higher")
