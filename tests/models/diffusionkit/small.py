"""A whole SD3-like model in a few megabytes of random files, laid out as the bridge reads them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ditq.models.diffusionkit.corrections import BYTES
from ditq.models.diffusionkit.hub import Files
from ditq.models.diffusionkit.vae import VAEShape
from tests.models.families import SMALL, stability_weights

if TYPE_CHECKING:  # they take seconds to import: only the tests that compare with them wait for that
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

WIDTH = 96
"""Token width of the text: T5's, and that to which the CLIP states are filled up."""
SHAPE = VAEShape(block_out_channels=(32, 32, 64, 64))
WORDS = ("photo", "castle", "snow", "café", "fox", "red", "the")
CORPUS = [
    "a photo of a castle in the snow",
    "the red fox",
    "Don't stop at 12 o'clock!",
    "ein Haus am See",
    "été 日本",
]


@dataclass(frozen=True)
class SmallModel:
    """The folder, and the torch modules whose weights it holds."""

    folder: Path
    clip_l: CLIPTextModelWithProjection
    clip_g: CLIPTextModelWithProjection
    t5: T5EncoderModel

    @cached_property
    def files(self) -> Files:
        """The folder as the bridge sees it."""
        return Files("sd3-medium", self.folder)


def write_model(folder: Path) -> SmallModel:
    """Writes tokenizers, text encoders, transformer and VAE into `folder`, in DiffusionKit's names."""
    import torch

    torch.manual_seed(0)
    vocab = write_clip_tokenizer(folder / "tokenizer_l")
    write_clip_tokenizer(folder / "tokenizer_g")
    write_sentencepieces(folder / "spiece.model")
    clip_l, clip_g, t5 = (
        clip_model(len(vocab), 32, "quick_gelu"),
        clip_model(len(vocab), 48, "gelu"),
        t5_model(),
    )
    for name, model, file in (
        ("clip_l", clip_l, "model.fp16.safetensors"),
        ("clip_g", clip_g, "model.fp16.safetensors"),
        ("t5", t5, "t5xxl.safetensors"),
    ):
        save(folder / name / file, {key: value.numpy() for key, value in model.state_dict().items()})
        config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
        (folder / name / "config.json").write_text(json.dumps(config, default=str))
    stability = stability_weights(mmdit_config())
    checkpoint = {f"model.diffusion_model.{key}": value for key, value in stability.items()}
    save(folder / "sd3_medium.safetensors", checkpoint | ldm_vae_weights(SHAPE))
    return SmallModel(folder, clip_l, clip_g, t5)


def mmdit_config():
    """Our transformer's config for this model."""
    from ditq.models.mmdit.config import MMDiTConfig

    return MMDiTConfig(**SMALL | {"pooled_text_embed_dim": 80, "token_level_text_embed_dim": WIDTH})


def write_clip_tokenizer(folder: Path) -> dict[str, int]:
    """A byte-level vocabulary that merges WORDS whole; returns it."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        letters = [BYTES[byte] for byte in word.encode()]
        letters[-1] += "</w>"
        while len(letters) > 1:
            pair = (letters[0], letters[1])
            letters[:2] = ["".join(pair)]
            merges += [pair] if pair not in merges else []
    names = [letter + end for end in ("", "</w>") for letter in BYTES.values()]
    names += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    )
    return vocab


def write_sentencepieces(path: Path) -> None:
    """A unigram SentencePiece model with T5's special tokens: 0 fills, 1 ends, 2 is unknown."""
    model = io.BytesIO()
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, vocab_size=60, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False, num_threads=1,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def clip_model(vocab: int, hidden: int, act: str) -> CLIPTextModelWithProjection:
    """A random CLIP of three layers, its norms and biases random too."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=3, num_attention_heads=4,
        hidden_act=act, projection_dim=hidden, bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=0,
    )  # fmt: skip
    return randomised(CLIPTextModelWithProjection(config))


def t5_model() -> T5EncoderModel:
    """A random T5 v1.1 encoder; its heads are wider together than the model, as in no square layer."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=128,
        d_model=WIDTH,
        d_kv=16,
        d_ff=160,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return randomised(T5EncoderModel(config))


def randomised(model):
    """The module with every parameter random, of the size that keeps activations around one."""
    import torch

    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = 0.3 if p.ndim == 1 else p.shape[-1] ** -0.5
            offset = 1 if (p.ndim == 1 and name.endswith("norm.weight")) or "norm1.weight" in name else 0
            p.copy_(offset + spread * torch.randn_like(p))
    return model.eval()


def ldm_vae_weights(shape: VAEShape, seed: int = 3) -> dict[str, np.ndarray]:
    """Random VAE weights under the names and shapes of Stability's single files."""
    rng, weights = np.random.default_rng(seed), {}
    channels, top = shape.block_out_channels, shape.block_out_channels[-1]

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.2 * rng.standard_normal(size)
        weights[f"{name}.bias"] = 0.2 * rng.standard_normal(size)

    def conv(name: str, out: int, into: int, side: int = 3) -> None:
        weights[f"{name}.weight"] = rng.standard_normal((out, into, side, side)) / np.sqrt(into * side * side)
        weights[f"{name}.bias"] = 0.2 * rng.standard_normal(out)

    def resnet(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into), conv(f"{name}.conv1", out, into)
        norm(f"{name}.norm2", out), conv(f"{name}.conv2", out, out)
        if into != out:
            conv(f"{name}.nin_shortcut", out, into, 1)

    for part, ins, outs, side, order in (
        ("encoder", 3, 2 * shape.latent_channels, "down", channels),
        ("decoder", shape.latent_channels, 3, "up", channels[::-1]),
    ):
        base = f"first_stage_model.{part}"
        conv(f"{base}.conv_in", order[0], ins), conv(f"{base}.conv_out", outs, order[-1])
        norm(f"{base}.norm_out", order[-1])
        resnet(f"{base}.mid.block_1", top, top), resnet(f"{base}.mid.block_2", top, top)
        norm(f"{base}.mid.attn_1.norm", top)
        for name in ("q", "k", "v", "proj_out"):
            conv(f"{base}.mid.attn_1.{name}", top, top, 1)
        for i, out in enumerate(order):
            level = i if side == "down" else len(order) - 1 - i
            for j in range(shape.layers_per_block + (side == "up")):
                resnet(f"{base}.{side}.{level}.block.{j}", order[max(i - 1, 0)] if j == 0 else out, out)
            if i < len(order) - 1:
                conv(f"{base}.{side}.{level}.{side}sample.conv", out, out)
    return {key: value.astype(np.float32) for key, value in weights.items()}


def save(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Writes the arrays as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path), {key: mx.array(value) for key, value in weights.items()})
