"""Every correction of DiffusionKit 0.5.2, one small named thing each.

A correction changes a given instance, or is a subclass that the bridge uses in its place: DiffusionKit's own classes
stay as they are for everybody else. Import this module late, since importing it imports DiffusionKit. What each defect
was measured to do is in docs/diffusionkit.md.
"""

import unicodedata
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import regex

from ditq.models.diffusionkit.imports import diffusionkit
from ditq.models.functional import timestep_embedding
from ditq.nn import clock_of

DK = diffusionkit()


# The transformer


class CorrectedMMDiT(DK.mmdit.MMDiT):
    """DiffusionKit's MMDiT, of SD3 or FLUX, with the corrections below; `k_proj.bias` is its only new parameter."""

    guidance = 3.5
    """The guidance that FLUX.1-dev is told of."""

    def __init__(self, config: Any):
        super().__init__(without_sdpa_threshold(config))
        # The original's call would embed the timestep where the guidance belongs, and crash.
        self.config = replace(self.config, guidance_embed=False)
        with_key_bias(self)
        with_float32_timestep_embedding(self)
        with_tanh_gelu(self)

    def cache_modulation_params(self, pooled_text_embeddings: mx.array, timesteps: mx.array) -> None:
        """Computes the modulation of all timesteps for this prompt, and keeps the adaLN weights.

        The original empties those weights afterwards, so that each picture rereads the checkpoint, lists their
        modules a second time in `parameters()`, and never drops the entries of an earlier prompt.
        """
        timesteps = timesteps.astype(mx.float32)
        prompt = self.y_embedder(pooled_text_embeddings)
        if isinstance(self.guidance_in, DK.mmdit.MLPEmbedder):
            prompt = prompt + self.guidance_in(
                self.t_embedder.timestep_embedding(mx.array([1000 * self.guidance]))
            )
        condition = self.t_embedder(timesteps)[:, None] + prompt[None, :, None, None]
        halves = [
            half
            for block in self.multimodal_transformer_blocks
            for half in (block.image_transformer_block, block.text_transformer_block)
        ]
        unified = [block.transformer_block for block in self.get("unified_transformer_blocks", [])]
        for owner in [*halves, *unified, self.final_layer]:
            steps = owner.adaLN_modulation(condition)
            mx.eval(steps)
            owner._modulation_params = {t.item(): row for t, row in zip(timesteps, steps, strict=True)}


def without_sdpa_threshold(config: Any) -> Any:
    """The config whose attention is called as MLX has it.

    In its low-memory mode DiffusionKit passes `memory_efficient_threshold`, which MLX no longer takes. A copy, since
    DiffusionKit's loader writes into the one config that all models share.
    """
    return replace(config, low_memory_mode=False)


def with_key_bias(mmdit: nn.Module) -> None:
    """Gives every attention its key bias, which DiffusionKit drops on loading.

    A bias common to all keys would cancel in the softmax; but the image and the text stream, which share one softmax,
    have different ones.
    """
    for _, module in mmdit.named_modules():
        if isinstance(module, DK.mmdit.Attention):
            module.k_proj.bias = mx.zeros((module.kv_proj_embed_dim,))


def with_float32_timestep_embedding(mmdit: Any) -> None:
    """Embeds timesteps in float32: near 1000, float16 knows the angle to half a radian, and bfloat16 to four."""
    adapter = Float32TimestepAdapter(mmdit.config)
    adapter.mlp = mmdit.t_embedder.mlp
    mmdit.t_embedder = adapter


class Float32TimestepAdapter(DK.mmdit.TimestepAdapter):
    """DiffusionKit's timestep adapter with float32 angles."""

    def timestep_embedding(self, t: mx.array) -> mx.array:
        """Cosines and sines of the timesteps, in the weights' dtype."""
        embedding = timestep_embedding(t, self.config.frequency_embed_dim, self.config.max_period)
        return embedding.astype(self.mlp.layers[0].bias.dtype)


def with_tanh_gelu(mmdit: Any) -> None:
    """Gives the MLPs the tanh form of GELU that the models were trained with, in place of the exact one."""
    for _, module in mmdit.named_modules():
        if isinstance(module, DK.mmdit.FFN):
            module.act_fn = nn.gelu_approx


class CorrectedDenoiser(DK.CFGDenoiser):
    """DiffusionKit's guidance with float32 timesteps, for any guidance weight, without rereading the checkpoint.

    The clock of a quantized transformer is put on each step's row, which takes eager steps, as the original's are.
    """

    def __init__(self, pipeline: Any, sigmas: mx.array):
        super().__init__(pipeline)
        self._timesteps = pipeline.sampler.timestep(sigmas)
        self._clock = clock_of(pipeline.mmdit)

    def cache_modulation_params(self, pooled_text_embeddings: mx.array, sigmas: mx.array) -> None:
        """Caches for the exact timesteps; those given were cast to the 16-bit dtype (602.15 became 602.0)."""
        self.model.mmdit.cache_modulation_params(pooled_text_embeddings, self._timesteps[:-1])

    def clear_cache(self) -> None:
        """Does nothing: the weights were never emptied."""

    def __call__(
        self,
        x_t: mx.array,
        timestep: mx.array,
        sigma: mx.array,
        conditioning: mx.array,
        cfg_weight: float = 7.5,
        pooled_conditioning: mx.array | None = None,
    ) -> mx.array:
        """The denoised latents, float32.

        The original subtracts the velocity from latents rounded to 16 bits.
        """
        if self._clock is not None:
            now = np.array(self.model.sampler.timestep(sigma)).reshape(-1)[:1]
            self._clock.follow(now)
            self._clock.set(0)
        guided = conditioning.shape[0] > 1
        doubled = mx.concatenate([x_t, x_t]) if guided else x_t
        velocity = self.model.mmdit(
            latent_image_embeddings=doubled.astype(self.model.activation_dtype),
            token_level_text_embeddings=mx.expand_dims(conditioning, 2),
            timestep=mx.broadcast_to(self.model.sampler.timestep(sigma), [len(doubled)]),
        ).astype(mx.float32)
        if guided:
            prompt, negative = velocity.split(2)
            velocity = negative + cfg_weight * (prompt - negative)
        return self.model.sampler.calculate_denoised(sigma, velocity, x_t)


# Text


class ByteTokenizer(DK.tokenizer.Tokenizer):
    """DiffusionKit's CLIP tokenizer, for any text.

    The original looks characters up where CLIP's vocabulary holds bytes: an accent, an emoji or a Chinese letter is a
    KeyError. It also spells out a special token that stands in a prompt.
    """

    def split(self, text: str) -> list[int]:
        """The tokens of a text, without begin and end, never truncated."""
        clean = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).lower()
        ids: list[int] = []
        for word in regex.findall(self.pat, clean):
            special = word in (self.bos, self.eos)
            parts = [word] if special else self.bpe("".join(BYTES[byte] for byte in word.encode()))
            ids += [self.vocab.get(part, self.eos_token) for part in parts]
        return ids

    def spell(self, ids: list[int]) -> str:
        """The text of tokens."""
        names = {number: name for name, number in self.vocab.items()}
        letters = "".join(names[number] for number in ids).replace("</w>", " ")
        codes = {letter: code for code, letter in BYTES.items()} | {" ": 32}
        return bytes(codes[letter] for letter in letters).decode(errors="replace").strip()

    def tokenize(self, text: Any, prepend_bos: bool = True, append_eos: bool = True) -> Any:
        """The tokens of a text (or of each of a list), cut to the model's length."""
        if isinstance(text, list):
            return [self.tokenize(each, prepend_bos, append_eos) for each in text]
        room = self.max_length - prepend_bos - append_eos
        ends = [self.bos_token] * prepend_bos, [self.eos_token] * append_eos
        return ends[0] + self.split(text)[:room] + ends[1]


def _printable_bytes() -> dict[int, str]:
    """The letter that stands for each byte in byte-level BPE: itself where printable, else the next from 256 up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTES = _printable_bytes()


class CorrectedT5(DK.t5.SD3T5Encoder):
    """DiffusionKit's T5 encoder with the two corrections below, and a mask."""

    def __init__(self, config: Any):
        super().__init__(config, low_memory_mode=False)
        self.encoder = CorrectedT5Stack(config, low_memory_mode=False)
        with_t5_tanh_gelu(self.encoder)

    def __call__(self, inputs: mx.array, mask: mx.array | None = None) -> mx.array:
        """The encoded tokens; none attends to those where the mask (prompts, tokens) is 0. Without a mask all do."""
        return self.encoder(self.wte(inputs), mask)


class CorrectedT5Stack(DK.t5.TransformerEncoder):
    """T5's layers, callable more than once and on every device.

    The original sets and resets MLX's memory limit from `device_info()["memory_size"]`, which the CPU has not, and in
    its low-memory mode throws its layers away after the first call, so that a second one returns nonsense.
    """

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        """The encoded tokens, in the dtype of `x`; in between float32, since T5 overflows float16."""
        with mx.stream(mx.cpu):
            # Which bucket a distance falls into hangs on the last bit of a logarithm: the same on every device.
            bias = self.relative_attention_bias(x.shape[1], x.shape[1])
        if mask is not None:
            bias = mx.where(mask[:, None, None] > 0, bias, mx.finfo(mx.float32).min)
        y = x.astype(mx.float32)
        for layer in self.layers:
            y = layer(y, mask=bias)
        return self.ln(y).astype(x.dtype)


def with_t5_tanh_gelu(stack: Any) -> None:
    """Gives T5 v1.1 its 'gated-gelu', which is the tanh form; DiffusionKit uses the exact one."""
    for layer in stack.layers:
        if layer.dense.act is nn.gelu:
            layer.dense.act = nn.gelu_approx


# Pictures


def with_group_norm_eps(vae: nn.Module) -> None:
    """Sets the group norms' epsilon to the VAE's 1e-6; MLX's default, which DiffusionKit keeps, is 1e-5."""
    for _, module in vae.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 1e-6


def rounded_pixels(x: mx.array) -> np.ndarray:
    """uint8 pixels of a decoder's output in [-1, 1], rounded; DiffusionKit cuts the fraction off, which darkens."""
    pixels = mx.clip(x.astype(mx.float32) / 2 + 0.5, 0, 1) * 255
    return np.array(mx.round(pixels).astype(mx.uint8))
