"""What the comparison's figures say in words and in colours; their looks are judged by eye."""

import numpy as np

from ditq.plots.comparison import bits_heatmap, errors_before_and_after, picture_grid, scores_by_variant
from ditq.plots.page import png


def words(figure) -> list[str]:
    figure.canvas.draw()
    texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return [" ".join(text.get_text().split()) for text in texts if text.get_text().strip()]


def test_grid_labels_every_row_column_and_score():
    pictures = np.zeros((2, 16, 16, 3), np.uint8)
    grid = picture_grid(
        {"float": pictures, "W4A8 AdaRound, per timestep": pictures + np.uint8(9)},
        ["a fox in the snow", "a large owl at night"],
        {"W4A8 AdaRound, per timestep": [31.04, 29.0]},
    )
    told = words(grid)
    for wanted in ("float", "W4A8 AdaRound, per timestep", "a fox in the snow", "31.0 dB", "29.0 dB"):
        assert wanted in told
    shown = [axis.images[0].get_array() for axis in grid.axes]
    assert [int(image.max()) for image in shown] == [0, 9, 0, 9]


def test_scores_show_medians_and_the_floor():
    told = words(scores_by_variant("good", {"a": [1.0, 2.0, 9.0], "b": [3.0]}, "PSNR", np.array([5.0, 7.0])))
    assert {"a", "b", "2.0", "3.0", "float model, other seeds: 6.0"} <= set(told)


def test_errors_tell_the_change():
    told = words(errors_before_and_after("better", {"mm0": 2.0, "mm1": 1.0}, {"mm0": 1.0, "mm1": 1.1}))
    assert {"-50%", "+10%", "mm0", "mm1"} <= set(told)


def test_bits_are_coloured_by_level():
    bits = np.array([[4.0, 8.0], [8.0, 8.0]])
    made = bits_heatmap("mostly A8", bits, ["one", "two"], [1000.0, 20.0])
    assert made.axes[0].images[0].get_array().tolist() == [[0, 1], [1, 1]]
    assert {"A4", "A8"} <= set(words(made))
    assert png(made).startswith(b"\x89PNG")
