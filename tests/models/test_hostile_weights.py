"""Seeded mutations of small checkpoints: each is refused by name, or loads as a network of the right, finite shape."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.diffusionkit.hub import Files
from ditq.models.diffusionkit.vae import VAE, VAEShape
from ditq.models.mmdit.config import MMDiTConfig
from ditq.models.mmdit.loading import load_mmdit
from tests.models.diffusionkit.small import ldm_vae_weights
from tests.models.families import stability_weights

CONFIG = MMDiTConfig(
    num_heads=2,
    depth_multimodal=2,
    hidden_size_override=8,
    vae_latent_dim=2,
    max_latent_resolution=4,
    pooled_text_embed_dim=4,
    token_level_text_embed_dim=4,
    use_qk_norm=True,
    dual_attention_blocks=(0,),
    frequency_embed_dim=4,
)
SHAPE = VAEShape(latent_channels=2, block_out_channels=(2, 2), layers_per_block=1, groups=1)
BYTES = {
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "I64": 8,
}
BYTES |= {"F64": 8, "C64": 8, "U32": 4, "I16": 2, "F4": 1, "F128": 16}
WORDS = [
    "",
    ".",
    "..",
    "²",
    "٣",
    "9" * 400,
    "weight",
    "qkv",
    "attn2",
    "module.",
    "_orig_mod.",
    "scaled_fp8",
    "\u0000",
    "é",
]
WORDS += [
    "joint_blocks.",
    "x_block",
    ".scale_weight",
    ".weight_scale",
    ".comfy_quant",
    "transformer_blocks.0.norm1_context.",
]
Entries = dict[str, tuple[Any, Any, bytes]]
"""By key: dtype, shape and data."""


def written(
    path: Path, entries: Entries, spoil: Callable[[dict[str, Any]], None] = lambda header: None
) -> Path:
    header: dict[str, Any] = {}
    data = b""
    for key, (dtype, shape, raw) in entries.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    spoil(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def as_entries(weights: dict[str, np.ndarray]) -> Entries:
    return {
        key: ("F32", list(value.shape), value.astype(np.float32).tobytes()) for key, value in weights.items()
    }


def mutated(entries: Entries, rng: np.random.Generator) -> Entries:
    """The entries with one to three things changed: keys, dtypes, shapes, values, numbers of entries."""
    entries = dict(entries)
    for _ in range(rng.integers(1, 4)):
        key = str(rng.choice(list(entries)))
        dtype, shape, raw = entries.pop(key)
        word = WORDS[rng.integers(len(WORDS))]
        match rng.integers(9):  # in no case below: the key is lost
            case 1:
                at = int(rng.integers(len(key) + 1))
                entries[key[:at] + word + key[at:]] = dtype, shape, raw
            case 2:
                entries[key.replace(".", word, 1)] = dtype, shape, raw
            case 3:
                other = str(rng.choice(list(BYTES)))
                count = int(np.prod(shape))
                entries[key] = other, shape, rng.bytes(count * BYTES[other])
            case 4:
                shapes = [
                    [],
                    [0],
                    [1],
                    shape[::-1],
                    [*shape, 1],
                    [int(np.prod(shape))],
                    [3, *shape],
                    [2**31, 2**31],
                ]
                new = shapes[rng.integers(len(shapes))]
                count = int(np.prod(new)) if len(new) < 9 and max(new, default=0) < 2**31 else 0
                entries[key] = dtype, new, (raw * (count + 1))[: 4 * count]
            case 5:
                value = np.float32([np.nan, np.inf, -np.inf, 3e38][rng.integers(4)]).tobytes()
                entries[key] = dtype, shape, value + raw[4:]
            case 6:
                base = key.rpartition(".")[0]
                end = str(
                    rng.choice(["scale_weight", "weight_scale", "comfy_quant", "input_scale", "lora_A"])
                )
                entries[key] = dtype, shape, raw
                entries[f"{base}.{end}"] = "F32", [], np.float32(2).tobytes()
            case 7:
                entries[key] = dtype, shape, raw
                entries = {word + name: entry for name, entry in entries.items()}
            case _:
                entries[key] = dtype, shape, raw
                twin = (
                    str(rng.choice(["module.", "_orig_mod.", "model.diffusion_model.", "transformer."])) + key
                )
                entries[twin] = dtype, shape, raw
        if not entries:
            break
    return entries


def spoilt(header: dict[str, Any], rng: np.random.Generator) -> None:
    """Replaces one thing in a header by what no header holds."""
    values: list[Any] = [None, [], {}, "x", -1, 2**70, 1.5, True, [1, 2, 3], [[1]], {"a": 1}, ["a"], [-1, 0]]
    key = str(rng.choice(list(header))) if header else "x"
    value = values[rng.integers(len(values))]
    part = str(rng.choice(["", "dtype", "shape", "data_offsets"]))
    if part and isinstance(header.get(key), dict):
        header[key][part] = value
    else:
        header[key] = value


def check(load: Callable[[Path], Any], path: Path, case: str) -> bool:
    """Whether a file loads; fails for any other end than a UserError that begins with the path, or a finite network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = load(path)
        except UserError as error:
            message = str(error)
            assert message.startswith(str(path)), (case, message)
            assert len(message) < len(str(path)) + 3000, (case, message[:500])
            return False
    for name, array in tree_flatten(module.parameters()):
        assert mx.isfinite(array).all().item(), (case, name)
        assert mx.issubdtype(array.dtype, mx.floating), (case, name)
    return True


@pytest.mark.parametrize("seed", range(150))
def test_a_mutated_transformer_is_refused_clearly_or_loads_whole(tmp_path, seed):
    rng = np.random.default_rng(seed)
    entries = mutated(as_entries(stability_weights(CONFIG)), rng)
    spoil = (lambda header: spoilt(header, rng)) if seed % 5 == 4 else (lambda header: None)
    path = written(tmp_path / "a.safetensors", entries, spoil)
    check(lambda path: load_mmdit(path, CONFIG, mx.float32), path, str(seed))


@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_vae_is_refused_clearly_or_loads_whole(tmp_path, seed):
    rng = np.random.default_rng(1000 + seed)
    path = written(tmp_path / "a.safetensors", mutated(as_entries(ldm_vae_weights(SHAPE)), rng))
    check(lambda path: VAE(path, SHAPE).decoder(), path, str(seed))


def test_the_unmutated_files_load(tmp_path):
    path = written(tmp_path / "a.safetensors", as_entries(stability_weights(CONFIG)))
    assert check(lambda path: load_mmdit(path, CONFIG, mx.float32), path, "transformer")
    path = written(tmp_path / "a.safetensors", as_entries(ldm_vae_weights(SHAPE)))
    assert check(lambda path: VAE(path, SHAPE).decoder(), path, "VAE")


@pytest.mark.parametrize("name", ["sd3-medium", "sd3.5-large"])
def test_paths_that_hold_nothing_of_use_are_told(tmp_path, name):
    (tmp_path / "sd3_medium.safetensors").mkdir()
    (tmp_path / "sd3.5_large.safetensors").symlink_to(tmp_path / "sd3.5_large.safetensors")
    for part in ("transformer", "vae"):
        with pytest.raises(UserError):
            load_mmdit(getattr(Files(name, tmp_path), part)(), CONFIG)
