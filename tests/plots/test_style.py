"""Titles end before the figure's edge, and a notebook keeps the backend that it chose."""

import importlib

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ditq.plots import style
from ditq.plots.adaround import block_errors, loss_curves
from ditq.plots.distributions import _edge
from tests.plots.test_adaround import config


@pytest.mark.parametrize("width", [5.0, 9.5])
@pytest.mark.parametrize("letter", ["i", "m", "W", "W4A8 "])
def test_titles_end_before_the_edge(width, letter):
    words = " ".join([letter.strip() * 7] * 40)
    made = style.figure(words, width=width)
    box = made._suptitle.get_window_extent(FigureCanvasAgg(made).get_renderer())
    assert box.x0 >= 0.011 * made.bbox.width and box.x1 <= 0.989 * made.bbox.width
    assert made.get_suptitle().replace("\n", " ") == words


def test_the_backend_stays_as_it_was(tmp_path):
    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        importlib.reload(style)
        style.figure("A figure").savefig(tmp_path / "figure.png")
        assert matplotlib.get_backend() == "svg"
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    finally:
        matplotlib.use(before)


@pytest.mark.filterwarnings("error")
def test_a_run_without_iterations_draws_no_curve_and_says_so(tmp_path):
    run = {**config(3, kept=[0, 1, 2]), "iterations": 0}
    made = loss_curves(run)
    made.savefig(tmp_path / "loss.png")
    assert "there is no loss to draw" in made.get_suptitle() and not made.axes[0].lines
    block_errors(run).savefig(tmp_path / "errors.png")


@pytest.mark.filterwarnings("error")
def test_blocks_that_rounding_leaves_exact_are_drawn(tmp_path):
    run = config(2)
    for report in run["per_block"]:
        report |= {"error": 0.0, "error_rounding": 0.0}
    for number, made in enumerate((loss_curves(run), block_errors(run))):
        made.savefig(tmp_path / f"{number}.png")


def test_edges_of_tenths_are_never_minus_nothing():
    found = [_edge(value) for value in (-0.0, 0.0, -0.0012, -3.4e-5, -0.17, 1.234, 12.5)]
    assert found == ["0", "0", "-0.0012", "-3.4e-05", "-0.17", "1.23", "12.50"]
