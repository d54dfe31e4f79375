"""What step 3A decided: bits as colours, step sizes along the trajectory, and how much the layers vary."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from ditq.activations import Decision, observed_ranges
from ditq.diagnostics import LayerStatistics, streams
from ditq.plots.style import BLUE, DECADE, GREEN, GREY, ORANGE, VERMILLION, figure, log_if_wide, tidy

ROLES = {
    "attention_in": ("q, k, v", GREY),
    "attention_out": ("attention output", GREEN),
    "mlp_in": ("MLP", BLUE),
    "mlp_out": ("post-GELU", ORANGE),
}
"""Name and colour of each role that has its own."""
OTHER = ("other", VERMILLION)
SIGMA = "sigma: noise on the left, picture on the right"


def decision_figures(statistics: LayerStatistics, decision: Decision) -> Iterator[tuple[str, Figure]]:
    """All figures by name."""
    yield "bits", bits_heatmap(statistics, decision)
    yield "scales", scale_curves(statistics, decision)
    yield "variability", variability(statistics, decision)


def bits_heatmap(statistics: LayerStatistics, decision: Decision) -> Figure:
    """The bits of every input at every timestep."""
    bits, sigmas = decision.bits, _sigmas(statistics, decision)
    table = np.array(list(bits.values()))
    used = sorted(set(table.ravel().tolist()))
    switching = int((table != table[:, :1]).any(axis=1).sum())
    told = f"{switching} of {len(bits)} inputs change their bits along the trajectory"
    if len(used) == 1:
        told = f"Every input has {used[0]} bits at every timestep"
    made = figure(told, height=min(12.0, max(3.6, 1.6 + 0.21 * len(bits))))
    axis = made.subplots()
    colours = ListedColormap(["#c7dced", BLUE, "#0b2a4a", "#444444", "#777777"][: max(len(used), 1)])
    edges = [used[0] - 1, *[(a + b) / 2 for a, b in pairwise(used)], used[-1] + 1]
    image = axis.imshow(
        table, aspect="auto", interpolation="nearest", cmap=colours, norm=BoundaryNorm(edges, len(used))
    )
    every = max(1, -(-len(sigmas) // 13))
    axis.set_xticks(range(0, len(sigmas), every), [f"{sigma:.2f}" for sigma in sigmas[::every]])
    axis.set_xlabel(SIGMA)
    axis.set_yticks(
        range(len(bits)), [_name(statistics, path) for path in bits], fontsize=8 if len(bits) < 40 else 4
    )
    bar = made.colorbar(image, ax=axis, pad=0.01, ticks=used)
    bar.ax.set_yticklabels([f"A{b}" for b in used])
    return made


def scale_curves(statistics: LayerStatistics, decision: Decision) -> Figure:
    """What each grid covers along the trajectory, over its mean: one line per input, by stream and role."""
    sigmas, names = _sigmas(statistics, decision), statistics.names
    spans = {path: decision.scales[path] * 2.0 ** np.array(bits) for path, bits in decision.bits.items()}
    ratios = {path: span.max() / span.min() for path, span in spans.items()}
    widest = max(ratios, key=lambda path: ratios[path])
    told = f"The range that its grid covers changes most for {_name(statistics, widest)}: {ratios[widest]:.1f}-fold"
    made = figure(f"{told} over the trajectory; changes of bits are part of it", height=5.0)
    shown = streams({path: names[path] for path in spans})
    axes = np.atleast_1d(np.asarray(made.subplots(1, len(shown), sharey=True)))
    everything = np.concatenate([span / np.exp(np.log(span).mean()) for span in spans.values()])
    for axis, stream in zip(axes, shown, strict=True):
        for path, span in spans.items():
            if names[path].stream == stream:
                relative = span / np.exp(np.log(span).mean())
                axis.plot(sigmas, relative, color=_role(statistics, path)[1], linewidth=1.1, alpha=0.75)
        tidy(axis, title=f"{stream} stream" if stream else "", xlabel=SIGMA)
        if len(sigmas) > 1:
            axis.set_xlim(max(sigmas), min(sigmas))
        log_if_wide(axis, everything)
    axes[0].set_ylabel("range of the grid over its geometric mean")
    roles = _roles(statistics, spans)
    handles = [axes[0].plot([], [], color=colour, label=name)[0] for name, colour in roles]
    made.legend(handles=handles, loc="outside lower center", ncols=len(roles), frameon=False)
    return made


def variability(statistics: LayerStatistics, decision: Decision, most: int = 24) -> Figure:
    """The greatest over the least range of each input's values along the trajectory, the most variable first."""
    drifts = {path: _drift(ranges) for path, ranges in observed_ranges(statistics, decision).items()}
    order = sorted(drifts, key=lambda path: -drifts[path])[:most]
    above = sum(drift > 1.5 for drift in drifts.values())
    told = f"{above} of {len(drifts)} inputs vary by more than 1.5 times between their quietest and loudest timestep"
    made = figure(told, height=max(3.2, 1.5 + 0.23 * len(order)))
    axis = made.subplots()
    places = np.arange(len(order))[::-1]
    lengths, colours = [drifts[path] - 1 for path in order], [_role(statistics, path)[1] for path in order]
    axis.barh(places, lengths, left=1, color=colours, height=0.72)
    axis.set_yticks(places, [_name(statistics, path) for path in order], fontsize=8)
    tidy(axis, xlabel="greatest over least range of the values along the trajectory")
    if max(drifts.values()) > DECADE:
        axis.set_xscale("log")
    roles = _roles(statistics, order)
    for name, colour in roles:
        axis.barh([0], [0], left=1, color=colour, label=name)
    made.legend(loc="outside lower center", ncols=len(roles), frameon=False)
    return made


def _sigmas(statistics: LayerStatistics, decision: Decision) -> list[float]:
    return [statistics.manifest["sigma_map"][str(step)] for step in decision.steps]


def _name(statistics: LayerStatistics, source: str) -> str:
    """The label of an observed input, and how many other layers receive it."""
    others = len(statistics.groups[source]) - 1
    label = statistics.names[source].label + (" post-GELU" if statistics.role(source) == "mlp_out" else "")
    return f"{label} +{others}" if others else label


def _role(statistics: LayerStatistics, path: str) -> tuple[str, str]:
    """The name and the colour of the layer's role."""
    return ROLES.get(statistics.role(path) or "", OTHER)


def _roles(statistics: LayerStatistics, paths: Iterable[str]) -> list[tuple[str, str]]:
    """The names and colours of the roles of these layers."""
    found = {_role(statistics, path) for path in paths}
    return [role for role in (*ROLES.values(), OTHER) if role in found]


def _drift(ranges: np.ndarray) -> float:
    return float(ranges.max() / ranges.min()) if ranges.min() > 0 else 1.0
