"""What step 3A decided: bits as colours, step sizes along the trajectory, and how much the layers vary."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from ditq.activations import Decision
from ditq.diagnostics import label, stream
from ditq.plots.style import BLUE, DECADE, GREEN, GREY, ORANGE, VERMILLION, figure, log_if_wide, tidy

KINDS = {"qkv": GREY, "o_proj": GREEN, "fc1": BLUE, "fc2": ORANGE, "other": VERMILLION}
SIGMA = "sigma: noise on the left, picture on the right"


def decision_figures(sigmas: Sequence[float], decision: Decision) -> Iterator[tuple[str, Figure]]:
    """All figures by name."""
    yield "bits", bits_heatmap(sigmas, decision)
    yield "scales", scale_curves(sigmas, decision)
    yield "variability", variability(decision)


def bits_heatmap(sigmas: Sequence[float], decision: Decision) -> Figure:
    """The bits of every input at every timestep."""
    bits = decision.bits
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
    axis.set_yticks(range(len(bits)), [_name(path) for path in bits], fontsize=8 if len(bits) < 40 else 4)
    bar = made.colorbar(image, ax=axis, pad=0.01, ticks=used)
    bar.ax.set_yticklabels([f"A{b}" for b in used])
    return made


def scale_curves(sigmas: Sequence[float], decision: Decision) -> Figure:
    """What each grid covers along the trajectory, over its mean: one line per input, by stream and kind of layer."""
    spans = {path: _spans(decision, path) for path in decision.grids}
    ratios = {path: span.max() / span.min() for path, span in spans.items()}
    widest = max(ratios, key=lambda path: ratios[path])
    told = f"The range that its grid covers changes most for {_name(widest)}: {ratios[widest]:.1f}-fold"
    made = figure(f"{told} over the trajectory; changes of bits are part of it", height=5.0)
    streams = [name for name in ("image", "text", None) if any(stream(path) == name for path in spans)]
    axes = np.atleast_1d(np.asarray(made.subplots(1, len(streams), sharey=True)))
    everything = np.concatenate([span / np.exp(np.log(span).mean()) for span in spans.values()])
    for axis, name in zip(axes, streams, strict=True):
        for path, span in spans.items():
            if stream(path) == name:
                relative = span / np.exp(np.log(span).mean())
                axis.plot(sigmas, relative, color=KINDS[_kind(path)], linewidth=1.1, alpha=0.75)
        tidy(axis, title=f"{name} stream" if name else "", xlabel=SIGMA)
        if len(sigmas) > 1:
            axis.set_xlim(max(sigmas), min(sigmas))
        log_if_wide(axis, everything)
    axes[0].set_ylabel("range of the grid over its geometric mean")
    shown = [kind for kind in KINDS if any(_kind(path) == kind for path in spans)]
    handles = [axes[0].plot([], [], color=KINDS[kind], label=kind)[0] for kind in shown]
    made.legend(handles=handles, loc="outside lower center", ncols=len(shown), frameon=False)
    return made


def variability(decision: Decision, most: int = 24) -> Figure:
    """The greatest over the least range of each input's values along the trajectory, the most variable first."""
    drifts = {path: _drift(ranges) for path, ranges in decision.ranges.items()}
    order = sorted(drifts, key=lambda path: -drifts[path])[:most]
    above = sum(drift > 1.5 for drift in drifts.values())
    told = f"{above} of {len(drifts)} inputs vary by more than 1.5 times between their quietest and loudest timestep"
    made = figure(told, height=max(3.2, 1.5 + 0.23 * len(order)))
    axis = made.subplots()
    places = np.arange(len(order))[::-1]
    lengths = [drifts[path] - 1 for path in order]
    axis.barh(places, lengths, left=1, color=[KINDS[_kind(path)] for path in order], height=0.72)
    axis.set_yticks(places, [_name(path) for path in order], fontsize=8)
    tidy(axis, xlabel="greatest over least range of the values along the trajectory")
    if max(drifts.values()) > DECADE:
        axis.set_xscale("log")
    shown = [kind for kind in KINDS if any(_kind(path) == kind for path in order)]
    for kind in shown:
        axis.barh([0], [0], left=1, color=KINDS[kind], label=kind)
    made.legend(loc="outside lower center", ncols=len(shown), frameon=False)
    return made


def _name(path: str) -> str:
    """The label of what is observed: qkv for the input that queries, keys and values share."""
    name = label(path).replace(".q_proj", ".qkv")
    return name if "." in name else f"{name}.mlp.fc2"


def _kind(path: str) -> str:
    last = path.rsplit(".", 1)[-1]
    return "qkv" if last == "q_proj" else last if last in KINDS else "other"


def _spans(decision: Decision, path: str) -> np.ndarray:
    return np.array([grid.scale * 2.0**grid.bits for grid in decision.grids[path]])


def _drift(ranges: np.ndarray) -> float:
    return float(ranges.max() / ranges.min()) if ranges.min() > 0 else 1.0
