"""The figures of a decision name inputs as the statistics do, and show its numbers."""

import numpy as np
import pytest

from ditq.activations import ByTier, Decision, Fixed, LogSNRGrid, PerTimestep, Smoothing
from ditq.plots.decisions import decision_figures
from ditq.plots.page import png
from tests.activations.invented import FC1, FC2, QKV, folder


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("statistics"))


def labels(figure, axis: str = "y") -> list[str]:
    return [text.get_text() for text in getattr(figure.axes[0], f"get_{axis}ticklabels")()]


def test_inputs_have_their_labels_and_roles(statistics):
    decision = PerTimestep(ByTier(), smoothing=Smoothing("none")).decide(statistics, lambda paths: {})
    figures = dict(decision_figures(statistics, decision))
    assert list(figures) == ["bits", "scales", "variability"]
    assert all(png(figure).startswith(b"\x89PNG") for figure in figures.values())
    names = ["mm_00_img.attn.q_proj +2", "mm_00_img.mlp.fc1", "mm_00_img post-GELU"]
    assert labels(figures["bits"]) == names and sorted(labels(figures["variability"])) == sorted(names)
    assert labels(figures["bits"], "x") == ["1.00", "0.60", "0.25"]
    table = np.asarray(figures["bits"].axes[0].images[0].get_array())
    assert table.tolist() == [decision.bits[source] for source in (QKV[0], FC1, FC2)]
    legend = [text.get_text() for text in figures["scales"].legends[0].get_texts()]
    assert (
        legend == ["q, k, v", "MLP", "post-GELU"] and figures["scales"].axes[0].get_title() == "image stream"
    )


def test_older_files_and_ready_made_grids_are_drawn(statistics):
    layers = {p: {n: e[n] for n in ("input", "channels")} for p, e in statistics.manifest["layers"].items()}
    old = type(statistics)(statistics.folder, {**statistics.manifest, "layers": layers})
    decision = Decision.of(old, {FC2: LogSNRGrid(np.array([-3.0, 0.2]), 8)})
    figures = dict(decision_figures(old, decision))
    assert labels(figures["bits"]) == [FC2] and png(figures["scales"])
    assert [text.get_text() for text in figures["scales"].legends[0].get_texts()] == ["other"]
    one = PerTimestep(Fixed(8), smoothing=Smoothing("none")).decide(old, lambda paths: {})
    assert labels(dict(decision_figures(old, one))["bits"])[0] == f"{QKV[0]} +2"
