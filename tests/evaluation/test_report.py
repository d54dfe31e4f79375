"""What a report says: directions of metrics, identical pictures, the file and the table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.evaluation import (
    EvalReport,
    Size,
    Spread,
    VariantReport,
    comparison_sentence,
    floor_sentence,
    markdown,
    read_report,
    rows,
    size_sentence,
    write_report,
)

CAP = 90.0
SIZES = {"float": Size(4_000_000, 16.0), "W8": Size(2_000_000, 8.13), "W4": Size(1_000_000, 4.13)}


def variant(name, psnr, latent_error, ssim):
    scores = {"psnr": psnr, "latent_error": latent_error, "ssim": ssim}
    return VariantReport(name, SIZES.get(name, SIZES["float"]), 0.0125, 30_000_000, scores)


@pytest.fixture
def report() -> EvalReport:
    """Four pictures. W8 is nearer than W4 on three; one of its pictures is identical to the float one."""
    return EvalReport(
        model="toy",
        settings={"steps": 3},
        prompts=["a", "b", "c", "d"],
        seeds=[1, 2, 3, 4],
        units={"psnr": "dB", "latent_error": "%", "ssim": ""},
        reference=variant("float", [CAP] * 4, [0.0] * 4, [1.0] * 4),
        floor=variant("float, other seeds", [20.0, 22.0, 24.0, 26.0], [80.0] * 4, [0.5] * 4),
        variants=[
            variant("W8", [CAP, 50.0, 40.0, 30.0], [0.0, 2.0, 3.0, 9.0], [1.0, 0.99, 0.98, 0.9]),
            variant("W4", [40.0, 45.0, 37.0, 31.0], [5.0, 4.0, 6.0, 8.0], [0.9, 0.98, 0.95, 0.92]),
        ],
        better={"psnr": "higher", "latent_error": "lower", "ssim": "higher"},
        titles={"psnr": "PSNR", "latent_error": "latent error", "ssim": "SSIM"},
        capped=["psnr"],
    )


def test_a_gain_is_positive_where_the_first_is_better(report):
    for metric in ("psnr", "ssim", "latent_error"):
        assert report.gain("W8", "W4", metric).wins == 3
        assert report.gain("W4", "W8", metric).wins == 1
    gain = report.gain("W8", "W4", "latent_error")
    assert gain.spread == Spread.of([5.0, 2.0, 3.0, -1.0])
    assert report.gain("W4", "W8", "latent_error").spread.median == -gain.spread.median
    assert report.gain("W8", "W4").spread == Spread.of([50.0, 5.0, 3.0, -1.0])
    assert report.gain("W8", "W8").wins == 0


def test_the_table_has_the_float_models_own_row_and_names_identical_pictures(report):
    heading, *body = rows(report)
    assert heading[:4] == ["variant", "PSNR, dB", "latent error, %", "SSIM"]
    assert [row[0] for row in body] == ["float", "W8", "W4", "float, other seeds"]
    own = body[0]
    assert own[1:4] == ["identical", "0.0000", "1.00"]
    assert own[4:] == ["16.00", "4.00", "100%", "30", "12.5"]
    assert body[1][1] == "40.0 (30.0 to 50.0)" and body[2][1] == "38.5 (35.5 to 41.2)"
    best = replace(report.variants[0], scores={**report.variants[0].scores, "psnr": [CAP, CAP, CAP, 30.0]})
    assert rows(replace(report, variants=[best]))[2][1] == "identical (30.0 to identical)"
    assert markdown([["a", "b"], ["c", "1"]]) == "| a | b |\n|---|--:|\n| c | 1 |"


def test_scores_to_show_are_infinite_where_pictures_are_identical(report):
    assert report.shown_scores("float") == [np.inf] * 4
    assert report.shown_scores("W8") == [np.inf, 50.0, 40.0, 30.0]
    assert report.shown_scores("W8", "latent_error") == [0.0, 2.0, 3.0, 9.0]


def test_a_report_survives_its_file(report, tmp_path):
    path = tmp_path / "report.json"
    write_report(path, report)
    assert read_report(path) == report
    value = json.loads(path.read_text())
    assert value["better"]["latent_error"] == "lower"
    assert value["floor"]["summary"]["psnr"]["median"] == 23.0


def test_reports_without_directions_are_read(report, tmp_path):
    path = tmp_path / "report.json"
    value = report.as_json()
    for key in ("better", "titles", "capped"):
        del value[key]
    path.write_text(json.dumps(value))
    assert read_report(path) == report
    recorded = read_report(Path(__file__).parents[2] / "docs" / "results" / "mini.json")
    assert recorded.better == report.better and len(recorded.variants) > 10
    assert rows(recorded)[1][1] == "identical"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ditq.pipeline"}, "expected ditq.evaluation version 1"),
        ({"version": 2}, "got ditq.evaluation version 2"),
        ({"floor": None}, "missing or unknown field"),
        ({"units": {"psnr": "dB", "sharpness": ""}, "better": None}, "missing or unknown field"),
    ],
)
def test_other_files_are_refused(change, message, report, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({**report.as_json(), **change}))
    with pytest.raises(UserError, match=message):
        read_report(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="expected ditq.evaluation version 1, as an evaluation writes"):
        read_report(path)


def test_spread_is_numpys():
    values = [3.0, 1.0, 2.0, 10.0]
    spread = Spread.of(values)
    assert (spread.low, spread.median, spread.high) == (1.75, 2.5, 4.75)
    assert spread.mean == 4.0 and spread.std == pytest.approx(np.std(values, ddof=1))
    assert Spread.of([5.0]).std == 0.0


def test_sentences_name_the_better_variant_whatever_the_metric(report):
    def said(name, over, metric):
        return comparison_sentence(report, name, over, f"the {name}", over, metric)

    counted = "(median of 4 pictures; {} on {})."
    nearer = "the W8 is 4.0 dB nearer to the float pictures than W4 "
    assert said("W8", "W4", "psnr") == nearer + counted.format("nearer", 3)
    farther = "the W4 is 4.0 dB farther from the float pictures than W8 "
    assert said("W4", "W8", "psnr") == farther + counted.format("nearer", 1)
    better = "latent error, %: the W8 is 2.50 better than W4 "
    assert said("W8", "W4", "latent_error") == better + counted.format("better", 3)
    assert "the W4 is 2.50 worse than W8" in said("W4", "W8", "latent_error")
    assert "SSIM: the W8 is 0.0200 better than W4" in said("W8", "W4", "ssim")
    assert "as near to the float pictures as W8" in said("W8", "W8", "psnr")
    assert "the W8 is as good as W8" in said("W8", "W8", "ssim")


def test_no_figure_in_db_describes_identical_pictures(report):
    told = comparison_sentence(report, "float", "W4", "float", "W4")
    assert told == "float draws 4 of 4 pictures identical to the float ones, W4 0."


def test_sentences_of_sizes_and_of_the_floor(report):
    assert size_sentence(report, "W4") == (
        "W4: 4.13 bits per quantized weight; the files take 1.00 MB, 25% of the 4.00 MB of 16 bits."
    )
    assert "is 23.0 dB away from its own pictures (quartiles 21.5 and 24.5)" in floor_sentence(report)
    assert "latent error, % of the float model itself" in floor_sentence(report, "latent_error")
