"""What the comparison's figures say in words and in colours; their looks are judged by eye."""

import math

import numpy as np

from ditq.plots.comparison import picture_grid, scores_by_variant


def words(figure) -> list[str]:
    figure.canvas.draw()
    texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return [" ".join(text.get_text().split()) for text in texts if text.get_text().strip()]


def test_grid_labels_every_row_column_and_score():
    pictures = np.zeros((2, 16, 16, 3), np.uint8)
    grid = picture_grid(
        {"float": pictures, "W4A8 AdaRound, per timestep": pictures + np.uint8(9)},
        ["a fox in the snow", "a large owl at night"],
        {"W4A8 AdaRound, per timestep": [31.04, math.inf]},
    )
    told = words(grid)
    for wanted in ("float", "W4A8 AdaRound, per timestep", "a fox in the snow", "31.0 dB", "identical"):
        assert wanted in told
    shown = [axis.images[0].get_array() for axis in grid.axes]
    assert [int(image.max()) for image in shown] == [0, 9, 0, 9]


def test_scores_show_medians_and_the_floor():
    told = words(scores_by_variant("good", {"a": [1.0, 2.0, 9.0], "b": [3.0]}, "PSNR", np.array([5.0, 7.0])))
    assert {"a", "b", "2.0", "3.0", "float model, other seeds: 6.0"} <= set(told)
