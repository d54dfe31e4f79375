"""Where AdaRound starts and what it costs: held-out errors and seconds on blocks of `mini`, from weights and from GPTQ.

    python benchmarks/adaround_start.py --work demo/adaround_start --out benchmarks/results/adaround_start.md

Calibrates `mini`, then quantizes single blocks to W4A8, a scale per channel, from the float model's inputs: about ten
minutes on one core. The calibration is kept in --work.
"""

import argparse
import platform
import time
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import numpy as np

from ditq.calibration import (
    BlockCache,
    CacheRecipe,
    ImageRecipe,
    cache_blocks,
    collect_images,
    default_prompts,
    read_block_cache,
    read_images,
)
from ditq.cli.progress import Progress
from ditq.core.platform import prepare
from ditq.core.spec import Spec
from ditq.models import load
from ditq.models.base import Network
from ditq.sampling.generate import settings_for
from ditq.weights import RTN, AdaRound, BlockProblem, Method, SequentialGPTQ, block_specs

METHODS: dict[str, Method] = {
    "round-to-nearest": RTN(),
    "GPTQ, layer after layer": SequentialGPTQ(),
    "AdaRound from the weights, 130 iterations": AdaRound(iterations=130, gptq=0),
    "AdaRound from the weights, 400 iterations": AdaRound(iterations=400, gptq=0),
    "AdaRound from GPTQ's scales alone (share .01), 130 iterations": AdaRound(iterations=130, gptq=0.01),
    "AdaRound from GPTQ's codes, 130 iterations": AdaRound(iterations=130),
    "AdaRound from GPTQ's codes, 400 iterations": AdaRound(iterations=400),
}


def main() -> None:
    """Quantizes each block with each method and prints, or writes, the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--work", type=Path, default=Path("demo/adaround_start"), help="the calibration")
    flags.add_argument("--out", type=Path, help="write the table to this file as well")
    flags.add_argument("--blocks", type=int, nargs="+", default=[1, 3], help="their numbers (default: 1 3)")
    flags.add_argument("--images", type=int, default=40, help="calibration pictures (default: 40)")
    args = flags.parse_args()
    network, cache = calibration(args.images, args.work)
    lines = ["| method | " + " | ".join(f"block {n}, error | s" for n in args.blocks) + " |"]
    lines.append("|---" * (1 + 2 * len(args.blocks)) + "|")
    problems = [block_problem(network, cache, number) for number in args.blocks]
    for name, method in METHODS.items():
        cells = [name]
        for problem in problems:
            started = time.perf_counter()
            report = method.quantize(problem).report
            cells += [f"{report['error']:.5f}", f"{time.perf_counter() - started:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1])
    about = (
        f"`python benchmarks/adaround_start.py`: blocks of `mini`, W4A8, a scale per channel, {len(cache)} rows of "
        f"{args.images} pictures; relative squared error of the block's output on every eighth picture, which no "
        f"method saw. One run each, one after the other. ditq {ditq.__version__}, MLX {mx.__version__}, "
        f"{prepare().device} ({platform.system()} {platform.machine()}, {prepare().blas})."
    )
    table = "\n".join(["# AdaRound: where it starts", "", about, "", *lines])
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


def calibration(images: int, work: Path) -> tuple[Network, BlockCache]:
    """`mini`, and what its blocks receive and return on some recorded pictures, every seventh step."""
    model = load("mini")
    settings = settings_for(model)
    with Progress(images * settings.steps, "step", "calibration") as bar:
        collect_images(
            model,
            default_prompts("mini"),
            ImageRecipe(images, 0, min(images, 10)),
            settings,
            work / "pictures",
            True,
            bar.advance,
        )
    recipe = CacheRecipe(images, 7, "float32", 8)
    cache_blocks(model, read_images(work / "pictures"), recipe, work / "cache", True)
    return model.network(), read_block_cache(work / "cache")


def block_problem(network: Network, cache: BlockCache, number: int) -> BlockProblem:
    """A block and the float model's states before and behind it, its layers' inputs on learned static grids."""
    block, path = network.blocks[number], network.anatomy.blocks[number]
    state = {**cache.state(number), **cache.given(network)}
    following = cache.state(number + 1)
    inputs = {name: state[name] for name in block.reads}
    return BlockProblem(
        block=block,
        path=path,
        anatomy=network.anatomy,
        inputs=inputs,
        quantized_inputs=inputs,
        targets={name: following[name] for name in cache.flow.read_later(number)},
        carried=cache.flow.inputs(number),
        timesteps=cache.timesteps,
        specs=block_specs(block, path, network.anatomy, Spec(4)),
        activation_bits=8,
        pictures=np.repeat([image for image, _ in cache.samples], cache.rows_per_sample),
    )


if __name__ == "__main__":
    main()
