"""The whole way at SD3 Medium's real shapes with random weights: what memory each step takes.

    python benchmarks/sd3_size.py --work /tmp/sd3-size

Writes a float16 transformer of 4.2 GB to --work, which needs 15 GB, and then runs every step in a process of its own,
256 pixels, one picture at one step with guidance: about 15 minutes on one idle core. Finished steps are kept there; run
it again to go on. Text encoders and VAE are left out: prompts are random embeddings, the picture shows the latents.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ditq.activations import ActivationTable
from ditq.calibration import (
    CacheRecipe,
    ImageRecipe,
    cache_blocks,
    collect_images,
    read_block_cache,
    read_images,
)
from ditq.capture import matrix
from ditq.checkpoint import QuantizedCheckpoint, write_folder
from ditq.checkpoint.quantized_model import FolderModel
from ditq.core import affine
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.files import read_json, write_json, write_png, write_safetensors, write_text
from ditq.core.platform import prepare
from ditq.core.quantized import QuantizedWeight
from ditq.core.recipe import read_recipe
from ditq.core.spec import Spec
from ditq.models.base import Conditioning
from ditq.models.diffusionkit.sd3 import SD3
from ditq.quantization import WeightTrack, assigned, quantize_weights
from ditq.sampling.generate import generate, settings_for
from ditq.weights.adaround import AdaRound
from ditq.weights.layerwise import SequentialGPTQ

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "sd3_size.md"
PROMPTS = ["a harbour at dawn"]
GB = 1e9
FLOAT16 = 4.17
"""GB of the transformer in float16."""
QUANTIZING, DRAWING = FLOAT16 + 6, 4.0
"""GB that are the goals."""


class Random(SD3):
    """SD3 Medium without text encoders and VAE: the transformer of --work."""

    def __init__(self, work: Path, dtype: mx.Dtype = mx.float16):
        super().__init__("sd3-medium", work / "model", dtype)

    def encode(self, prompts: list[str]) -> Conditioning:
        """Random embeddings of the real shapes, the same for the same prompt; the last 77 tokens, T5's, are zeros."""
        tokens, pooled = [], []
        for prompt in prompts:
            rng = np.random.default_rng(list(prompt.encode()))
            own = rng.standard_normal((self.geometry.text_tokens, self.geometry.text_dim)).astype(np.float32)
            own[77:] = 0
            tokens.append(own)
            pooled.append(rng.standard_normal(self.geometry.pooled_dim or 0).astype(np.float32))
        return Conditioning(mx.array(np.stack(tokens)), mx.array(np.stack(pooled)))

    def decode(self, latents: mx.array) -> np.ndarray:
        """Three channels of the latents, enlarged."""
        shown = np.array(mx.sigmoid(latents[..., :3].astype(mx.float32)) * 255).astype(np.uint8)
        return shown.repeat(8, axis=1).repeat(8, axis=2)


def write_model(work: Path) -> dict[str, Any]:
    """Random weights of the real shapes, such that activations keep their size."""
    mx.random.seed(0)
    arrays = {}
    for name, array in tree_flatten(Random(work).skeleton().parameters()):  # pyright: ignore
        scale = 0.02 if array.ndim < 2 else (array.size // array.shape[0]) ** -0.5
        arrays[name] = (mx.random.normal(array.shape) * scale).astype(mx.float16)
        mx.eval(arrays[name])
    path = work / "model" / "sd3_medium.safetensors"
    write_safetensors(path, arrays)
    return {"GB on disk": round(path.stat().st_size / GB, 2)}


def record(work: Path) -> dict[str, Any]:
    """Pictures in float32, as a CPU computes, and the cache of the blocks' inputs and outputs."""
    model = Random(work, mx.float32)
    collect_images(
        model,
        PROMPTS,
        ImageRecipe(num_images=1),
        settings_for(model, height=256, width=256, steps=1),
        work / "images",
        (work / "images" / "manifest.json").exists(),
    )
    images, done = read_images(work / "images"), (work / "cache" / "metadata.json").exists()
    cache_blocks(model, images, CacheRecipe(num_images=1, stride=1), work / "cache", done)
    size = sum(path.stat().st_size for path in (work / "cache").rglob("*.npz"))
    return {"rows": len(read_block_cache(work / "cache")), "GB on disk": round(size / GB, 2)}


def gptq(work: Path) -> dict[str, Any]:
    """Two blocks."""
    return _quantized(work, "gptq", WeightTrack(SequentialGPTQ(), Spec(4, True, 64), blocks=(0, 1)))


def adaround(work: Path) -> dict[str, Any]:
    """One block, few iterations: more take longer, and no more memory."""
    method = AdaRound(iterations=4, batch_size=2)
    return _quantized(work, "adaround", WeightTrack(method, Spec(4), blocks=(0,)))


def _quantized(work: Path, name: str, track: WeightTrack) -> dict[str, Any]:
    folder = work / name
    network, cache = Random(work).network(), read_block_cache(work / "cache")
    config = quantize_weights(network, cache, track, folder, (folder / "plan.json").exists())
    return {"error of rounding": f"{config['error_rounding']:.3g}", "error": f"{config['error']:.3g}"}


def checkpoint(work: Path) -> dict[str, Any]:
    """W4A8 by rounding, with the preset's grids of weights and the same grid for all activations."""
    model = Random(work)
    network = model.network()
    weights = {}
    layers = network.anatomy.modules(network)
    for path, rule in assigned(network, read_recipe("w4a8-small")).rules.items():
        assert rule.spec is not None
        rounded = affine.round_to_nearest(matrix(layers[path]).astype(mx.float32), rule.spec, False)
        weights[path] = QuantizedWeight(*rounded, rule.spec)
        mx.eval(weights[path].codes, weights[path].scale, weights[path].zero)
    timesteps = np.array([500.0], np.float32)
    one = mx.ones((1,))
    grid = TimestepGrid(timesteps, GridRows(0.05 * one, -128 * one, 127 * one))
    table = ActivationTable(timesteps, dict.fromkeys(network.anatomy.paths("block"), grid))
    files = write_folder(work / "w4a8", network, QuantizedCheckpoint(model.name, weights, table))
    size = sum(path.stat().st_size for path in files)
    return {"GB on disk": round(size / GB, 2), "of float16": f"{size / GB / FLOAT16:.0%}"}


def draw(work: Path) -> dict[str, Any]:
    """One picture of the W4A8 folder alone, guided, one step."""
    model = FolderModel(Random(work, mx.float32), work / "w4a8")
    settings = settings_for(model, height=256, width=256, steps=1)
    for picture in generate(model, PROMPTS, [0], settings):
        write_png(work / "picture.png", picture)
    return {"peak of MLX, GB": round(mx.get_peak_memory() / GB, 2)}


@dataclass(frozen=True)
class Step:
    """One process."""

    run: Callable[[Path], dict[str, Any]]
    title: str
    goal: float | None = None


STEPS = {
    "model": Step(write_model, "write the float16 model"),
    "record": Step(record, "record a picture and cache all blocks, float32"),
    "gptq": Step(gptq, "GPTQ of 2 blocks", QUANTIZING),
    "adaround": Step(adaround, "AdaRound of 1 block", QUANTIZING),
    "checkpoint": Step(checkpoint, "the W4A8 checkpoint", QUANTIZING),
    "draw": Step(draw, "load it and draw 1 picture", DRAWING),
}


def measured(name: str, work: Path) -> dict[str, Any]:
    """Seconds and peak resident memory of a step in a process of its own; what it wrote itself is added."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--work", str(work), "--step", name])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"step {name} ended with {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = read_json(work / f"{name}.part.json")
    return {"seconds": round(time.perf_counter() - started), "peak": round(peak / GB, 2), "facts": found}


def page(figures: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = prepare()
    lines = [
        "# Memory at SD3 Medium's size",
        "",
        "`python benchmarks/sd3_size.py --work /tmp/sd3-size`: the transformer's real shapes "
        f"({FLOAT16} GB in float16) with random weights, 256 x 256, one picture at one step with guidance "
        "(2 rows), one process per step. "
        f"MLX {mx.__version__}, {machine.device} ({platform.system()} {platform.machine()}, {machine.blas}), "
        f"ditq {ditq.__version__}. Peaks are of the resident memory, with MLX's cache of freed arrays.",
        "",
        "| step | peak, GB | goal, GB | seconds | |",
        "|---|---|---|---|---|",
    ]
    for name, step in STEPS.items():
        if name in figures:
            own = figures[name]
            facts = ", ".join(f"{key} {value}" for key, value in own["facts"].items())
            goal = "" if step.goal is None else f"{step.goal:.1f}"
            lines.append(f"| {step.title} | {own['peak']:.2f} | {goal} | {own['seconds']} | {facts} |")
    lines += [
        "",
        "Quantizing loads the transformer in float16, as a GPU does, and computes in float32. Streams between blocks "
        "are read from the disk as they are needed, and large pictures run through a block a few rows at a time, so "
        "that neither more samples nor larger pictures raise the peak before attention over one row's tokens does. "
        "On a CPU pictures are recorded and drawn in float32, which doubles what is not quantized; on a GPU in 16 "
        "bits. Without text encoders and VAE, which are loaded and freed before and after.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the steps that are not done, one process each, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="outside the repository")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--step", choices=STEPS, help="one step alone, in this process")
    args = parser.parse_args()
    work = args.work.resolve()
    if work.is_relative_to(ROOT):
        parser.error(f"--work {work} lies in the repository")
    if args.step:
        write_json(work / f"{args.step}.part.json", STEPS[args.step].run(work))
        return
    path = work / "figures.json"
    figures = read_json(path) if path.exists() else {}
    for name in STEPS:
        if name not in figures:
            figures[name] = measured(name, work)
            write_json(path, figures)
            print(name, json.dumps(figures[name]), flush=True)
    write_text(args.out, page(figures))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
