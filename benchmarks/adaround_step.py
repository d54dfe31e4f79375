"""One iteration of AdaRound on one block: seconds and peak memory, eager and compiled.

    python benchmarks/adaround_step.py --out benchmarks/results/adaround_step.md

Both forms run in turns in one process on the same block, its inputs on learned 8-bit grids: a block of `mini`, and one
of the width and the tokens of Stable Diffusion 3 Medium at 256 pixels with random weights.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from turns import in_turns, median_ratio

from ditq.core.platform import prepare
from ditq.core.spec import Spec
from ditq.models import load
from ditq.models.base import Network
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig
from ditq.models.state import run_block
from ditq.weights import AdaRound, BlockProblem, block_specs
from ditq.weights.block_error import stream_powers
from ditq.weights.input_grids import inputs_of
from ditq.weights.reconstruction import Reconstruction
from ditq.weights.soft_rounding import start


def main() -> None:
    """Runs the comparison and prints, or writes, its table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, help="write the table to this file as well")
    flags.add_argument(
        "--rounds", type=int, default=15, help="repetitions of mini's (default: 15; the other: a fifth)"
    )
    flags.add_argument("--hidden", type=int, default=1536, help="width of the large block (default: 1536)")
    args = flags.parse_args()
    mini = load("mini")
    wide = MMDiTConfig(depth_multimodal=2, hidden_size_override=args.hidden, num_heads=args.hidden // 64)
    cases = [
        ("mini, 16 rows x 72 tokens", mini.network(), 64, mini.geometry.text_tokens, 16, args.rounds),
        (f"hidden {args.hidden}, 1 row x 333 tokens", MMDiT(wide), 256, 77, 1, max(2, args.rounds // 5)),
    ]
    rows = [row(*case) for case in cases]
    table = "\n".join(
        [
            "# AdaRound: one iteration on one block",
            "",
            f"`python benchmarks/adaround_step.py`: MLX {mx.__version__}, {prepare().device} ({platform.system()} "
            f"{platform.machine()}, {prepare().blas}), ditq {ditq.__version__}; W4A8, a scale per channel. Medians of "
            f"{args.rounds} (large block: {max(2, args.rounds // 5)}), in turns in one process.",
            "",
            "| block | eager, s | compiled, s | compiled / eager | eager, peak GB | compiled, peak GB |",
            "|---|---|---|---|---|---|",
            *(f"| {' | '.join(cells)} |" for cells in rows),
        ]
    )
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


def row(
    name: str, network: Network, image_tokens: int, text_tokens: int, rows: int, rounds: int
) -> tuple[str, ...]:
    """The table's line of one block."""
    problem = random_problem(network, image_tokens, text_tokens, rows)
    steps = [stepper(problem, rows, compiled) for compiled in (False, True)]
    seconds = in_turns(*steps, rounds)
    peaks = [f"{peak_memory(step) / 1e9:.2f}" for step in steps]
    return (
        name,
        *(f"{statistics.median(times):.3f}" for times in seconds),
        f"{median_ratio(seconds):.2f}",
        *peaks,
    )


def random_problem(network: Network, image_tokens: int, text_tokens: int, rows: int) -> BlockProblem:
    """The first block with random inputs; its targets are what it returns for them."""
    rng = np.random.default_rng(0)
    block, path, hidden = network.blocks[0], network.anatomy.blocks[0], network.config.hidden_size

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape, dtype=np.float32))

    carried = {"image": normal(rows, image_tokens, hidden), "text": normal(rows, text_tokens, hidden)}
    modulation = {block.modulation_name: 0.1 * normal(rows, block.modulation_width)}
    noisy = {name: array + 0.01 * normal(*array.shape) for name, array in carried.items()}
    outputs = run_block(block, carried | modulation)
    return BlockProblem(
        block=block,
        path=path,
        anatomy=network.anatomy,
        inputs=carried | modulation,
        quantized_inputs=noisy | modulation,
        targets={name: outputs[name] for name in network.flow.read_later(0)},
        carried=network.flow.inputs(0),
        timesteps=np.linspace(1000, 100, rows).astype(np.float32),
        specs=block_specs(block, path, network.anatomy, Spec(4)),
    )


def stepper(problem: BlockProblem, rows: int, compiled: bool) -> Callable[[], None]:
    """One iteration of the optimisation, its state kept between calls."""
    begun = {path: start(problem.weight(path), spec) for path, spec in problem.specs.items()}
    roundings = {path: rounding for path, (rounding, _) in begun.items()}
    work = Reconstruction(
        problem, roundings, inputs_of(problem), stream_powers(problem), 1.0, AdaRound(), compiled
    )
    optimisers = [optim.Adam(1e-2, bias_correction=True), optim.Adam(1e-3, bias_correction=True)]
    learned = work.begin({path: part for path, (_, part) in begun.items()})
    optimisers[0].init({"parts": learned["parts"]})
    optimisers[1].init({name: learned[name] for name in ("growths", "moves")})
    state = [learned]
    update, batch = work.update(optimisers), work.batch(np.arange(rows))
    pull = [mx.array(number) for number in (4.0, 1.0, 0.3)]

    def step() -> None:
        state[0], error = update(state[0], *batch, mx.random.key(0), *pull)
        mx.eval(state[0], error, [optimiser.state for optimiser in optimisers])

    return step


def peak_memory(function: Callable[[], None]) -> int:
    """Bytes at the peak while `function` runs, all that is held included."""
    mx.clear_cache()
    mx.reset_peak_memory()
    function()
    return mx.get_peak_memory()


if __name__ == "__main__":
    main()
