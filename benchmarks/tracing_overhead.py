"""What the observation of activations costs: a traced forward against a plain one.

    python benchmarks/tracing_overhead.py --out benchmarks/results/tracing_overhead.md

Both run in turns in one process on the same points, two guidance rows each. `mini` is the least favourable model: its
matrix products are small against the activations that are counted. "statistics" is what profile_postgelu keeps (moments
and exact histograms of every layer), "grids" what collect_layer_activations does (extremes, a histogram and a sample of
each distinct input of the blocks' linear layers). The other has the width and the tokens of Stable
Diffusion 3 Medium at 512 pixels, random weights and few blocks, since every block costs the same.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import numpy as np
from turns import in_turns, median_ratio

from ditq.calibration import PointSet
from ditq.capture import traced
from ditq.core.platform import prepare
from ditq.diagnostics import ActivationStatistics, InputRecipe, observed_paths
from ditq.diagnostics.collect import Observer, column_norms, nothing_yet, observed_inputs
from ditq.diagnostics.profiling import forward, observe_batch
from ditq.models import Geometry, Network, load
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig

TARGET = 1.25
BATCHES = 4
"""Of a timestep, where grids are chosen: 16 pictures, 4 at a time."""


def main() -> None:
    """Runs the comparison and prints, or writes, its table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, help="write the table to this file as well")
    flags.add_argument("--rounds", type=int, default=15, help="repetitions of each (default: 15)")
    flags.add_argument("--hidden", type=int, default=1536, help="width of the large model (default: 1536)")
    flags.add_argument(
        "--latent", type=int, default=64, help="side of its latents (default: 64: 1024 tokens)"
    )
    args = flags.parse_args()
    table = compare(args.rounds, args.hidden, args.latent)
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


def compare(rounds: int, hidden: int, side: int) -> str:
    """The table of all comparisons."""
    mini = load("mini")
    wide = MMDiTConfig(depth_multimodal=2, hidden_size_override=hidden, num_heads=hidden // 64)
    large = MMDiT(wide)
    channels, text, pooled = wide.vae_latent_dim, wide.token_level_text_embed_dim, wide.pooled_text_embed_dim
    shapes = Geometry(channels, 8, wide.patch_size, side, 154, text, pooled)
    cases = [
        ("mini, grids", mini.network(), points(mini.geometry, 16, 4), "grids"),
        (
            "mini, statistics, post-GELU",
            mini.network(),
            points(mini.geometry, 16, 4),
            "postgelu",
        ),
        (
            "mini, statistics, every linear layer",
            mini.network(),
            points(mini.geometry, 16, 4),
            "all",
        ),
        (f"hidden {hidden}, grids", large, points(shapes, side, 1), "grids"),
        (f"hidden {hidden}, statistics, post-GELU", large, points(shapes, side, 1), "postgelu"),
        (f"hidden {hidden}, statistics, every linear layer", large, points(shapes, side, 1), "all"),
    ]
    rows = []
    for name, network, given, inputs in cases:
        mx.eval(network.parameters())
        grids = inputs == "grids"
        paths = (
            list(dict.fromkeys(observed_inputs(network, "all").values()))
            if grids
            else observed_paths(network, inputs)
        )
        compared = grids_and_plain(network, given) if grids else both(network, given, paths)
        seconds = in_turns(*compared, rounds if network is cases[0][1] else max(3, rounds // 3))
        ratio = median_ratio(seconds)
        medians = (f"{statistics.median(times):.4f}" for times in seconds)
        rows.append((name, str(len(given)), str(len(paths)), *medians, f"{ratio:.2f}"))
    return "\n".join(
        [
            "# Tracing: a forward with statistics against a plain one",
            "",
            f"`python benchmarks/tracing_overhead.py`: MLX {mx.__version__}, {prepare().device} "
            f"({platform.system()} {platform.machine()}, {prepare().blas}), ditq {ditq.__version__}. "
            f"Medians of {rounds} (large model: {max(3, rounds // 3)}), in turns in one process; the target for "
            f"grids and post-GELU is a ratio of at most {TARGET}.",
            "",
            "| model, what is kept | points | inputs | plain, s | traced, s | traced / plain |",
            "|---|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def both(network: Network, given: PointSet, paths: list[str]) -> tuple[Callable, Callable]:
    """A plain forward of all points in one batch, and one that keeps statistics."""
    batch = np.arange(len(given))
    ends = (np.zeros(1), np.zeros(1))
    kept = ActivationStatistics({path: {} for path in paths}, dict.fromkeys(paths, ends), batch[:0])
    return lambda: mx.eval(forward(network, given, batch)), lambda: observe_batch(network, given, batch, kept)


def grids_and_plain(network: Network, given: PointSet) -> tuple[Callable, Callable]:
    """Plain forwards of all points in one batch, and some that keep what grids are chosen from.

    As in a run, the statistics of a timestep take in several batches: the points stand for `BATCHES` of them.
    """
    batch, norms = (
        np.arange(len(given)),
        column_norms(network.anatomy.modules(network), observed_inputs(network, "all")),
    )

    def plain() -> None:
        for _ in range(BATCHES):
            mx.eval(forward(network, given, batch))

    def step() -> None:
        kept = nothing_yet(network.anatomy, norms, InputRecipe.sample_values)
        for some in range(BATCHES):
            keys = [f"{some:x}{point:x}" for point in batch]
            observe = Observer(kept, keys, 2, "step 0")
            with traced(network, list(kept), observe):
                mx.eval(forward(network, given, batch))
            observe.flush()
        for part in kept.values():
            part.finish()

    return plain, step


def points(shapes: Geometry, side: int, count: int) -> PointSet:
    """Random points of one prompt, each at its own timestep."""
    rng = np.random.default_rng(0)
    none = np.zeros(count, np.int32)
    return PointSet(
        xs=rng.standard_normal((count, side, side, shapes.latent_channels)).astype(np.float16),
        ts=np.linspace(1000, 100, count).astype(np.float32),
        prompt_indices=none,
        step_indices=none,
        trajectory_indices=none,
        cs=rng.standard_normal((1, 2, shapes.text_tokens, shapes.text_dim)).astype(np.float32),
        cs_pooled=rng.standard_normal((1, 2, shapes.pooled_dim or 0)).astype(np.float32),
        prompts=["random"],
        cfg_scale=1.5,
        meta={},
    )


if __name__ == "__main__":
    main()
