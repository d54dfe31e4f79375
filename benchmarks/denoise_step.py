"""One SD3-shaped denoise step, loading, and what lies between two pictures: ours against stock DiffusionKit 0.5.2.

    python benchmarks/denoise_step.py --out benchmarks/results/denoise_step.md

Both models hold the same random float32 weights (4 blocks of hidden size 1536, 1024 image and 154 text tokens, two rows
for guidance) and run in turns in one process. Stock DiffusionKit runs with `low_memory_mode` off, since with it on
it does not run on MLX 0.32. Its key biases are dropped by itself; they are zero here, so that both compute the same.
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from turns import in_turns, median_ratio

from ditq.core.platform import prepare
from ditq.models.base import Conditioning
from ditq.models.diffusionkit.imports import diffusionkit
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig
from ditq.models.mmdit.loading import load_mmdit
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import diffusionkit_sigmas
from ditq.sampling.steppers import noise

STEPS = 50
TOKENS = 154


def main() -> None:
    """Runs the comparison and prints, or writes, its table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, help="write the table to this file as well")
    flags.add_argument("--rounds", type=int, default=7, help="repetitions of each (default: 7)")
    flags.add_argument(
        "--hidden", type=int, default=1536, help="hidden size, a multiple of 64 (default: 1536)"
    )
    flags.add_argument(
        "--latent", type=int, default=64, help="side of the latents (default: 64: 1024 tokens)"
    )
    args = flags.parse_args()
    config = MMDiTConfig(depth_multimodal=4, hidden_size_override=args.hidden, num_heads=args.hidden // 64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        mx.save_safetensors(str(path), stability_layout(config))
        table = compare(path, config, args.latent, args.rounds)
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


def compare(path: Path, config: MMDiTConfig, side: int, rounds: int) -> str:
    """The table of all comparisons."""
    load_ours, load_stock = (lambda: load_mmdit(path, config)), (lambda: stock_load(path, config))
    peaks = [peak_memory(load) for load in (load_ours, load_stock)]
    loading = in_turns(load_ours, load_stock, 3)
    ours, stock = load_ours(), load_stock()
    x, prompt, negative = noise([0], side, side, 16), conditioning(config, 1), conditioning(config, 2)
    sigmas = diffusionkit_sigmas(STEPS, 3.0)
    denoiser = Denoiser(ours)
    denoise = denoiser.run(prompt, negative, sigmas, 5.0)
    other = Denoiser(ours, compiled=prepare().device == "cpu").run(prompt, negative, sigmas, 5.0)
    stock_step = stock_denoise(stock, prompt, negative, sigmas, 5.0)
    velocity = denoise(x, 20)
    difference = (mx.abs(velocity - stock_step(x, 20)).max() / mx.abs(velocity).max()).item()
    stepping = in_turns(lambda: mx.eval(denoise(x, 20)), lambda: mx.eval(stock_step(x, 20)), rounds)
    compiling = in_turns(lambda: mx.eval(denoise(x, 20)), lambda: mx.eval(other(x, 20)), rounds)
    run_peaks = [
        peak_memory(lambda: mx.eval(denoise(x, 20))),
        peak_memory(lambda: mx.eval(stock_step(x, 20))),
    ]
    between = in_turns(
        lambda: denoiser.run(conditioning(config, 3), negative, sigmas, 5.0),
        lambda: stock_next_picture(stock, path, conditioning(config, 3), negative, sigmas),
        3,
    )
    parameters = sum(array.size for _, array in tree_flatten(ours.parameters()))
    rows = [
        ("denoise step, s", *timed(stepping)),
        (
            "peak memory of a step, GB",
            *(f"{peak / 1e9:.2f}" for peak in run_peaks),
            f"{run_peaks[1] / run_peaks[0]:.2f}",
        ),
        ("loading a checkpoint, s", *timed(loading)),
        (
            "peak memory of loading, GB",
            *(f"{peak / 1e9:.2f}" for peak in peaks),
            f"{peaks[1] / peaks[0]:.2f}",
        ),
        (f"before the next prompt's picture ({STEPS} steps' modulation), s", *timed(between)),
    ]
    lines = [
        "# Denoise step: ours against stock DiffusionKit 0.5.2",
        "",
        f"`python benchmarks/denoise_step.py`: {parameters / 1e6:.0f} M parameters in float32, "
        f"hidden {config.hidden_size}, {config.depth_multimodal} blocks, {(side // 2) ** 2} + {TOKENS} tokens, "
        f"guidance (2 rows); MLX {mx.__version__}, {prepare().device} "
        f"({platform.system()} {platform.machine()}, {prepare().blas}), ditq {ditq.__version__}. "
        f"Medians of {rounds} (loading: 3), in turns in one process; ratio above 1: ours is better.",
        "",
        "| | ours | stock | stock / ours |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"The step {'compiled' if prepare().device == 'cpu' else 'not compiled'} takes {timed(compiling)[2]} times as "
        f"long as ours above, in turns as well. Largest relative difference of the two velocities: {difference:.1e} "
        "(stock's exact GELU, docs/diffusionkit.md).",
        "Between pictures stock DiffusionKit also reads the checkpoint's adaLN weights again, since it empties them.",
    ]
    return "\n".join(lines)


def stability_layout(config: MMDiTConfig) -> dict[str, mx.array]:
    """Random weights under Stability's names: q, k and v joined, the key bias zero, torch's convolution."""
    mx.random.seed(0)
    weights: dict[str, mx.array] = {}
    for path, array in tree_flatten(MMDiT(config).parameters()):
        name = path.replace("multimodal_transformer_blocks.", "joint_blocks.").replace(
            "image_transformer_block", "x_block"
        )
        name = (
            name.replace("text_transformer_block", "context_block")
            .replace(".layers.", ".")
            .replace("o_proj", "proj")
        )
        value = mx.random.normal(array.shape) * (0.02 if array.ndim > 1 else 0.01)
        weights["model.diffusion_model." + name] = mx.zeros_like(value) if "k_proj.bias" in name else value
    for key in [key for key in weights if ".q_proj." in key]:
        parts = [weights.pop(key.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        weights[key.replace("q_proj", "qkv")] = mx.concatenate(parts)
    prefix = "model.diffusion_model."
    weights[f"{prefix}pos_embed"] = weights.pop(f"{prefix}x_pos_embedder.pos_embed.weight")[None]
    weights[f"{prefix}x_embedder.proj.weight"] = weights[f"{prefix}x_embedder.proj.weight"].transpose(
        0, 3, 1, 2
    )
    return weights


def conditioning(config: MMDiTConfig, seed: int) -> Conditioning:
    """Random text of SD3's shape."""
    rng = np.random.default_rng(seed)
    shapes = (1, TOKENS, config.token_level_text_embed_dim), (1, config.pooled_text_embed_dim)
    return Conditioning(*(mx.array(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes))


def stock_load(path: Path, config: MMDiTConfig, only_modulation: bool = False):
    """DiffusionKit's own way from a file to a model, or to the modulation weights that it reads again."""
    package = diffusionkit()
    weights = package.model_io.mmdit_state_dict_adjustments(
        mx.load(str(path)), prefix="model.diffusion_model."
    )
    if only_modulation:
        return [(key, value) for key, value in weights.items() if "adaLN" in key]
    model = package.mmdit.MMDiT(
        package.config.MMDiTConfig(
            num_heads=config.num_heads,
            depth_multimodal=config.depth_multimodal,
            hidden_size_override=config.hidden_size,
            low_memory_mode=False,
            dtype=mx.float32,
            float16_dtype=mx.float32,
        )
    )
    model.load_weights(list(weights.items()))
    mx.eval(model.parameters())
    return model


def stock_denoise(
    model, prompt: Conditioning, negative: Conditioning, sigmas: np.ndarray, guidance: float
) -> Callable:
    """`denoise(x, step)` as DiffusionKit's CFGDenoiser computes it."""
    timesteps = mx.array(1000 * sigmas[:-1], dtype=mx.float32)
    model.cache_modulation_params(mx.concatenate([prompt.pooled, negative.pooled]), timesteps)
    tokens = mx.concatenate([prompt.tokens, negative.tokens])[:, :, None]

    def denoise(x: mx.array, step: int) -> mx.array:
        out = model(mx.concatenate([x, x]), tokens, mx.broadcast_to(timesteps[step], [2]))
        text, none = mx.split(out, 2)
        return none + guidance * (text - none)

    return denoise


def stock_next_picture(
    model, path: Path, prompt: Conditioning, negative: Conditioning, sigmas: np.ndarray
) -> None:
    """What DiffusionKit does before the next prompt: read the emptied weights again, then cache the modulation."""
    model.clear_modulation_params_cache()
    model.load_weights(stock_load(path, None, only_modulation=True), strict=False)
    stock_denoise(model, prompt, negative, sigmas, 5.0)


def timed(seconds: tuple[list[float], list[float]]) -> tuple[str, str, str]:
    """Medians, and the median of the pairwise ratios."""
    return (*(f"{statistics.median(times):.3f}" for times in seconds), f"{median_ratio(seconds):.2f}")


def peak_memory(function: Callable) -> int:
    """Bytes at the peak while `function` runs, above what was held before it."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    function()
    return mx.get_peak_memory() - before


if __name__ == "__main__":
    main()
