"""A comparison of methods in words and in a figure, from invented scores."""

from dataclasses import replace

import numpy as np
import pytest

from ditq.evaluation import EvalReport, Size, Spread, VariantReport
from ditq.evaluation.compare_methods import CONTENDERS, Comparison, Entry
from ditq.evaluation.method_tables import as_json, by_bits, conclusion, page, rows
from ditq.plots.methods import figure_of

PSNR = {
    "rounding, min-max": {4: [30.0, 31.0, 32.0], 2: [10.0, 11.0, 12.0]},
    "rounding, MSE": {4: [31.0, 32.0, 33.0], 2: [20.0, 21.0, 22.0]},
    "GPTQ": {4: [33.0, 32.5, 38.0], 2: [19.0, 20.0, 21.0]},
    "Qronos": {4: [34.0, 35.0, 35.0], 2: [20.5, 21.5, 22.5]},
}
FACTS = {
    "symmetric": True,
    "group_size": None,
    "calibration_rows": 24,
    "calibration_pictures": 4,
    "held_out_pictures": 1,
    "pictures": 3,
    "settings": {"steps": 3, "guidance": 4.0},
}


def made(names, bits=(4, 2)) -> Comparison:
    def variant(name, psnr):
        return VariantReport(
            name, Size(1000, 4.1), 0.01, 1000, {"psnr": psnr, "latent_error": [9.0, 8.0, 7.0]}
        )

    variants = [variant(f"{name} W{number}", PSNR[name][number]) for number in bits for name in names]
    report = EvalReport(
        model="toy",
        settings={},
        prompts=["a", "b", "c"],
        seeds=[1, 2, 3],
        units={"psnr": "dB", "latent_error": "%"},
        reference=variant("float", [90.0] * 3),
        floor=variant("float, other seeds", [24.0, 25.0, 26.0]),
        variants=variants,
        better={"psnr": "higher", "latent_error": "lower"},
        titles={"psnr": "PSNR", "latent_error": "latent error"},
        capped=["psnr"],
    )
    entries = [
        Entry(
            name,
            number,
            number + 0.13,
            0.1,
            0.2,
            Spread.of([9.0, 8.0, 7.0]),
            Spread.of(PSNR[name][number]),
            1.5,
            10**7,
        )
        for number in bits
        for name in names
    ]
    return Comparison("toy", entries, FACTS, report)


@pytest.mark.parametrize(
    ("names", "bits", "expected"),
    [
        # over the better rounding, picture by picture: Qronos +3, +3, +2 at 4 bits; +0.5 at 2 bits
        (
            PSNR,
            (4, 2),
            "toy: the best method over rounding, +0.5 dB at 2 bits (Qronos), +3.0 dB at 4 bits (Qronos)",
        ),
        (["rounding, MSE", "GPTQ"], (2,), "No method is nearer to the float pictures than rounding on toy"),
        (["GPTQ", "Qronos"], (4,), "Weight methods on toy"),
        (["rounding, MSE"], (4,), "Weight methods on toy"),
    ],
)
def test_conclusion_names_the_best_method_over_the_better_rounding(names, bits, expected):
    found = conclusion(made(list(names), bits))
    assert found.startswith(expected)
    assert ("other seeds: 25.0 dB" in found) == (len(bits) > 1)


def test_table_page_and_json_hold_every_entry():
    comparison = made(list(PSNR))
    heading, *body = rows(comparison)
    assert len(body) == 8 and heading[0] == "method"
    assert body[2] == [
        "GPTQ",
        "4",
        "4.13",
        "10.00",
        "20.00",
        "8.00 (7.50 to 8.50)",
        "33.0 (32.8 to 35.5)",
        "1.5",
        "10",
    ]
    assert list(by_bits(comparison)) == [4, 2] and len(by_bits(comparison)[4]) == 4
    text = page(comparison, "methods.png", "python -m src.compare_methods")
    assert "(symmetric, one scale per output channel)" in text and "](methods.png)" in text
    grouped = replace(comparison, facts={**FACTS, "group_size": 64, "symmetric": False})
    assert "(asymmetric, groups of 64)" in page(grouped, "methods.png", "")
    value = as_json(comparison)
    assert len(value["entries"]) == 8 and value["floor"]["psnr"]["median"] == 25.0
    assert value["scores"]["GPTQ W2"]["psnr"] == PSNR["GPTQ"][2]
    assert comparison.entry("GPTQ", 2).psnr.median == 20.0


def test_figure_shows_gains_over_rounding_where_it_was_run():
    left, right = figure_of(made(list(PSNR))).axes
    gains = {line.get_label(): line.get_ydata() for line in right.lines}
    np.testing.assert_allclose(gains["Qronos"], [0.5, 3.0])
    np.testing.assert_allclose(gains["GPTQ"], [-1.0, 2.0])
    np.testing.assert_allclose(gains["rounding, MSE"], [0.0, 0.0])
    np.testing.assert_allclose(left.lines[0].get_ydata(), [8.0, 8.0])
    assert "PSNR over rounding, MSE, dB" in right.get_ylabel()
    _, right = figure_of(made(["GPTQ", "Qronos"])).axes
    np.testing.assert_allclose(right.lines[0].get_ydata(), [20.0, 33.0])


def test_contenders_have_names_of_their_own_as_folders():
    slugs = [one.slug for one in CONTENDERS]
    assert slugs[:2] == ["rounding-min-max", "rounding-mse"] and len(set(slugs)) == len(slugs)
