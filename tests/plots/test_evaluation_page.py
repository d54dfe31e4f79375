"""The page's parts: differences, sliders, and figures of errors along trajectories."""

import re

import numpy as np

from ditq.evaluation.trajectory_curves import Curves
from ditq.plots.comparison_page import Section, comparison_page, sliders
from ditq.plots.evaluation_page import GAIN, difference
from ditq.plots.trajectory_errors import MOST_LAYERS, error_curves, error_map


def curves(name="W4", factor=1.0, layers=3) -> Curves:
    levels = [1.0, 0.7, 0.4, 0.1]
    errors = [factor * x for x in (0.01, 0.02, 0.03, 0.08)]
    ranges = [(0.5 * x, 2 * x) for x in errors]
    inner = {f"blocks.{number}.fc": [0.01 * (number + 1)] * 2 for number in range(layers)}
    return Curves(name, 2, levels, 0.035 * factor, errors, ranges, errors, [0, 3], [[0.1, 0.2]] * 2, inner)


def test_differences_are_absolute_and_brighter():
    one, other = np.array([[[10, 200, 0]]], np.uint8), np.array([[[13, 190, 255]]], np.uint8)
    assert difference(one, other).tolist() == [[[3 * GAIN, 10 * GAIN, 255]]]
    assert not difference(one, one).any()


def test_a_slider_names_both_pictures_and_loads_a_script_only_where_there_is_one():
    picture = np.zeros((4, 4, 3), np.uint8)
    body = sliders(("float", "W4 <8>"), {'a "red" fox': (picture, picture)}, {'a "red" fox': "31.0 dB"})
    assert re.findall(r'alt="([^"]*)"', body) == [
        "a &quot;red&quot; fox, float",
        "a &quot;red&quot; fox, W4 &lt;8&gt;",
    ]
    assert "31.0 dB" in body and 'type="range"' in body and "aria-label" in body
    assert "<script>" in comparison_page("t", "l", {}, [Section("s", [], body)])
    assert "<script>" not in comparison_page("t", "l", {}, [Section("s", [], "")])


def test_curves_name_the_best_variant_and_its_worst_noise_level():
    made = error_curves([curves("W4", 2.0), curves("W8")])
    assert made.get_suptitle() == "W8: the prediction is 3.5 % off, at most 8 % at noise level 0.10"
    left, right = made.axes
    assert left.xaxis_inverted() and len(left.lines) == len(right.lines) == 2
    np.testing.assert_allclose(left.lines[1].get_ydata(), [1, 2, 3, 8])


def test_the_map_has_blocks_first_and_the_worst_layers_in_order():
    made = error_map(curves(layers=MOST_LAYERS + 5))
    labels = [text.get_text() for text in made.axes[0].get_yticklabels()]
    assert (
        labels[:3] == ["block 0", "block 1", f"blocks.{MOST_LAYERS + 4}.fc"]
        and len(labels) == 2 + MOST_LAYERS
    )
    assert "no layer is quantized" in error_map(curves(layers=0)).get_suptitle()
