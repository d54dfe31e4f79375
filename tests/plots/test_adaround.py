"""AdaRound's curves and bars stand at the values of its config.json."""

import numpy as np
import pytest

from ditq.plots.adaround import KEPT, MANY, block_errors, loss_curves


def config(blocks, kept=()):
    reports = [
        {
            "block": i,
            "losses": [] if i in kept else [1.0, 0.5, 0.25, 0.125],
            "error_rounding": 0.2 + i,
            "error": 0.2 + i if i in kept else (0.2 + i) / 4,
            "kept_rounding": i in kept,
        }
        for i in range(blocks)
    ]
    return {"iterations": 100, "recipe": {"warmup": 0.2}, "per_block": reports, "bits_w": 4, "bits_a": 8}


def test_curves_run_over_the_iterations_of_the_blocks_that_learned():
    made = loss_curves(config(3, kept=[1]))
    axis = made.axes[0]
    curves = [line for line in axis.lines if line.get_label().startswith("block")]
    assert [line.get_label() for line in curves] == ["block 0", "block 2"]
    for line in curves:
        np.testing.assert_allclose(line.get_ydata(), [1.0, 0.5, 0.25, 0.125])
        np.testing.assert_allclose(line.get_xdata(), [12.5, 37.5, 62.5, 87.5])
    assert any(list(line.get_xdata()) == [20.0, 20.0] for line in axis.lines)
    assert axis.get_yscale() == "log" and "leaves 25% of the error" in made.get_suptitle()


@pytest.mark.parametrize(("blocks", "named"), [(MANY, MANY), (MANY + 1, 2)])
def test_many_curves_are_named_by_the_first_and_the_last(blocks, named):
    legend = loss_curves(config(blocks)).axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == named and names[0] == "block 0" and names[-1] == f"block {blocks - 1}"


def test_a_block_that_keeps_gptq_has_a_colour_and_a_name_of_its_own():
    some = config(3, kept=[1])
    some["per_block"][2]["kept"] = "start"
    axis = (made := block_errors(some)).axes[0]
    assert len({bar.get_facecolor() for bar in axis.patches[3:6]}) == 3
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names[1:] == [label for _, label in KEPT.values()]
    assert "GPTQ where it began, beats round-to-nearest on 2 of 3" in " ".join(made.get_suptitle().split())


def test_bars_are_the_errors_before_and_after():
    made = block_errors(config(3, kept=[1]))
    axis = made.axes[0]
    heights = [bar.get_height() for bar in axis.patches if np.isfinite(bar.get_height())]
    np.testing.assert_allclose(heights, [0.2, 1.2, 2.2, 0.05, 1.2, 0.55])
    assert [text.get_text() for text in axis.texts] == ["25%", "100%", "25%"]
    assert axis.patches[4].get_facecolor() != axis.patches[3].get_facecolor()
    assert "W4A8" in made.get_suptitle() and "beats round-to-nearest on 2 of 3" in " ".join(
        made.get_suptitle().split()
    )
