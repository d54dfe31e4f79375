"""Every figure shows the statistics that it is given, draws degenerate ones, and says what they mean."""

import numpy as np
import pytest

from ditq.diagnostics import ActivationStatistics, ChannelStatistics, verdict
from ditq.plots.activations import OVERVIEWS, PER_LAYER, of_layer, overviews
from ditq.plots.figure_names import FIGURES
from ditq.plots.page import page, png
from tests.diagnostics.runs import invented, named, path_of


def figures_of(statistics: ActivationStatistics) -> dict:
    """All figures by name."""
    found = verdict(statistics)
    figures = dict(overviews(statistics, found))
    for path in statistics.layers:
        figures |= of_layer(statistics, found, path)
    return figures


def drawn(statistics: ActivationStatistics, arranged: bool = False) -> dict:
    """All figures by name, each rendered; the layout, which takes most of the time, only where `arranged`."""
    figures = figures_of(statistics)
    for figure in figures.values():
        figure.set_layout_engine(figure.get_layout_engine() if arranged else "none")
    assert all(png(figure).startswith(b"\x89PNG") for figure in figures.values())
    return figures


def of(values: list[np.ndarray], streams: str = "image") -> ActivationStatistics:
    path = path_of(0, streams)
    ends = (np.full(values[0].shape[1], -1.0), np.full(values[0].shape[1], 1.0))
    found = ActivationStatistics({path: {}}, {path: ends}, np.arange(1))
    found.meta = {"model": "invented", "sites": {path: named(path)}}
    for i, x in enumerate(values):
        found.add(path, float(1000 - 100 * i), ChannelStatistics.of(x.astype(np.float32)))
    return found


def titled(figure) -> str:
    return " ".join(figure.get_suptitle().split())


def test_every_figure_of_the_documents_is_drawn_for_both_streams():
    figures = drawn(invented(layers=2), arranged=True)
    wanted = {f"range_vs_timestep_{name}" for name in ("all", "image", "text")}
    wanted |= {"heatmap_mean", "heatmap_std", "negative_fraction_heatmap"}
    labels = ("mm_00_img", "mm_00_txt")
    wanted |= {f"{name}_{label}" for name in PER_LAYER for label in labels}
    assert set(figures) == wanted
    assert set(FIGURES) == {name.removesuffix("_mm_00_img").removesuffix("_mm_00_txt") for name in wanted}
    assert [*FIGURES[:3], *OVERVIEWS, *PER_LAYER] == FIGURES


def test_streams_of_other_models_are_drawn_with_all_layers():
    statistics = invented(layers=2)
    for entry, stream in zip(statistics.meta["sites"].values(), ("features", None), strict=True):
        entry["stream"] = stream
    found = verdict(statistics)
    names = [name for name, _ in overviews(statistics, found, ["range_vs_timestep_all"])]
    assert names == ["range_vs_timestep_all", "range_vs_timestep_features"]
    assert [name for name, _ in overviews(statistics, found, ["range_vs_timestep_text"])] == []


def test_layers_of_older_files_are_called_by_their_paths():
    statistics = invented(layers=2)
    del statistics.meta["sites"]
    figures = figures_of(statistics)
    assert f"histogram_{path_of(0)}" in figures and "range_vs_timestep_image" not in figures
    assert path_of(0, "text") in [t.get_text() for t in figures["heatmap_mean"].axes[0].get_yticklabels()]


def test_only_what_is_wanted_is_drawn():
    statistics = invented(layers=1)
    found = verdict(statistics)
    assert [name for name, _ in overviews(statistics, found, ["heatmap_std", "ridge"])] == ["heatmap_std"]
    names = [name for name, _ in of_layer(statistics, found, path_of(0), ["heatmap_std", "ridge"])]
    assert names == ["ridge_mm_00_img"] and set(FIGURES) >= {"heatmap_std", "ridge"}


def test_ranges_are_those_of_the_statistics():
    statistics = invented(layers=4)
    figure = dict(overviews(statistics, verdict(statistics)))["range_vs_timestep_text"]
    upper, lower = figure.axes
    paths = [path_of(0, "text"), path_of(1, "text")]
    for i, path in enumerate(paths):
        steps = [statistics.layers[path][t] for t in statistics.timesteps]
        assert np.array_equal(upper.lines[i].get_ydata(), [part.maximum.max() for part in steps])
        assert np.array_equal(lower.lines[i].get_ydata(), [part.minimum.min() for part in steps])
        assert np.array_equal(upper.lines[i].get_xdata(), statistics.timesteps)
        assert upper.lines[i].get_label() == f"mm_0{i}_txt" and upper.lines[i].get_linestyle() == "--"
    assert upper.get_yscale() == "log" and lower.get_xlim()[0] == 1000
    assert titled(figure).startswith("Drift: 2 of 2 layers, 2 of them strongly")


def test_heatmaps_are_numpys_means_and_deviations():
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((60, 5)) * 2**i + i for i in range(3)]
    figures = figures_of(of(values))
    x = [v.astype(np.float32).astype(np.float64) for v in values]
    for name, wanted in (
        ("heatmap_mean", [v.mean() for v in x]),
        ("heatmap_std", [v.std() for v in x]),
        ("negative_fraction_heatmap", [(v < 0).mean() for v in x]),
    ):
        shown = np.asarray(figures[name].axes[0].images[0].get_array())
        np.testing.assert_allclose(shown, [wanted], rtol=1e-9)
    shown = np.asarray(figures["channel_heatmap_mm_00_img"].axes[0].images[0].get_array())
    ranges = np.stack([np.ptp(v, axis=0) for v in x], axis=1)
    together = np.ptp(np.concatenate(x), axis=0)
    np.testing.assert_allclose(shown, ranges[np.argsort(-together)])


def test_titles_are_computed():
    x = np.linspace(-1, 1, 101)[:, None] * np.array([1.0] * 40 + [20.0])
    figures = figures_of(of([x, x]))
    ranges = titled(figures["channel_ranges_mm_00_img"])
    assert (
        "the widest of 41 channels is 20.0 times as wide" in ranges and "(strong outliers); 1 are" in ranges
    )
    assert "one static scale serves all timesteps (drift: none)" in titled(figures["ridge_mm_00_img"])
    assert "100% of the widest 2%" in titled(figures["channel_heatmap_mm_00_img"])
    assert "weights 1.0 times as wide" in titled(figures["weight_ranges_mm_00_img"])


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([np.array([[0.5, -0.1, 3.0]])], id="one value per channel at one timestep"),
        pytest.param([np.zeros((4, 3)), np.zeros((4, 3))], id="all zero"),
        pytest.param([np.full((4, 1), 2.5)], id="one constant channel"),
        pytest.param([np.full((4, 2), -3.0), np.full((4, 2), -3.0)], id="constant and negative"),
        pytest.param([np.full((4, 2), 40.0)], id="all beyond the even bins"),
        pytest.param([np.zeros((4, 3)), np.eye(4, 3) * 1e4], id="silent, then very loud"),
        pytest.param([np.eye(4, 3) * 1e-30], id="very small"),
        pytest.param([np.eye(4, 3) * 1e30], id="very large"),
    ],
)
def test_degenerate_statistics_are_drawn(values):
    assert len(drawn(of(values))) == 11


def test_silent_weights_are_drawn():
    statistics = of([np.eye(4, 3)])
    statistics.weights[path_of(0)] = (np.zeros(3), np.zeros(3))
    assert len(drawn(statistics)) == 11


def test_as_many_layers_as_sd3_medium_has_fit_one_figure():
    statistics = invented(layers=47, timesteps=25, channels=4, tokens=8)
    found = verdict(statistics)
    for _, figure in overviews(statistics, found):
        assert figure.get_size_inches()[1] <= 9 and png(figure)


def test_page_is_whole_in_itself():
    text = page(
        "A <title>",
        ["a & b"],
        [["layer", "min"], ["mm_00_img", "-0.17"]],
        "legend",
        {"ranges": b"1"},
        {"x": {"y": b"2"}},
    )
    assert (
        "A &lt;title&gt;" in text
        and "a &amp; b" in text
        and "<th>layer</th>" in text
        and "<td>-0.17</td>" in text
    )
    assert (
        text.count("data:image/png;base64,") == 2
        and '<section id="x">' in text
        and "<option>x</option>" in text
    )
    assert "http" not in text and "{" in text.split("<style>")[1].split("</style>")[0]
