"""What a run will cost, told before anything is loaded: parameters, operations, and this device's speed."""

import time

import mlx.core as mx
from mlx.utils import tree_flatten

from ditq.models.base import TextToImage
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig


def parameter_count(config: MMDiTConfig) -> int:
    """Parameters of the transformer; its arrays are lazy and never made."""
    return sum(array.size for array in dict(tree_flatten(MMDiT(config).parameters())).values())


def step_flops(config: MMDiTConfig, rows: int, image_tokens: int, text_tokens: int) -> float:
    """Floating-point operations of one call with `rows` rows: two per weight and token, and the attentions."""
    hidden, blocks = config.hidden_size, config.depth_multimodal
    tokens = image_tokens + text_tokens
    per_token = 2 * (4 + 2 * config.mlp_ratio) * hidden**2
    second = len(config.dual_attention_blocks) * (
        2 * 4 * hidden**2 * image_tokens + 4 * hidden * image_tokens**2
    )
    return rows * (blocks * (per_token * tokens + 4 * hidden * tokens**2) + second)


def sampling_seconds(
    model: TextToImage, pictures: int, steps: int, guided: bool, height: int, width: int
) -> float:
    """A rough time for the denoising of `pictures` with latents (height, width): operations over measured speed.

    Small models take longer than that, since they are bound by overhead and not by arithmetic.
    """
    image_tokens = height * width // model.config.patch_size**2
    flops = step_flops(model.config, 2 if guided else 1, image_tokens, model.text_tokens)
    return pictures * steps * flops / matmul_rate()


def matmul_rate(side: int = 1024, repeats: int = 3) -> float:
    """Floating-point operations per second of a matrix product on the default device, the best of a few."""
    dtype = mx.float16 if mx.default_device() == mx.gpu else mx.float32
    a = mx.ones((side, side), dtype=dtype)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        mx.eval(a @ a)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)
