"""Prompts to conditioning: the two CLIP encoders and T5 of the SD3 family, through DiffusionKit's modules."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.base import Conditioning
from ditq.models.diffusionkit.encoders import clip_encoder, t5_encoder
from ditq.models.diffusionkit.hub import T5_PARTS, TEXT, Files
from ditq.models.diffusionkit.tokenizers import SentencePieces, byte_tokenizer, truncated
from ditq.models.prompts import checked_prompts

CLIP_TOKENS = T5_TOKENS = 77
"""Tokens per prompt and encoder. SD3 was trained with 77 of each (arXiv 2403.03206, section 4)."""
T5_PAD = 0
_BATCH = 16
"""Prompts encoded at once."""

ENCODERS: dict[str, Callable[[Files], Any]] = {
    "clip_l": lambda files: clip_encoder(files, "l"),
    "clip_g": lambda files: clip_encoder(files, "g"),
    "t5": t5_encoder,
}
EMBEDDINGS = {
    "clip_l": "token_embedding.weight",
    "clip_g": "token_embedding.weight",
    "t5": "wte.weight",
}
"""Each encoder's table of tokens."""

Ids = Int[np.ndarray, "prompts tokens"]
States = Float[mx.array, "prompts tokens dims"]


class TextEncoders:
    """The text encoders of `files`: each loaded when needed, used for all prompts and freed, or with `keep` kept."""

    def __init__(self, files: Files, use_t5: bool = True, keep: bool = False):
        self.files, self.use_t5, self.keep = files, use_t5, keep
        self._kept: dict[str, Any] = {}

    def encode(self, prompts: Sequence[str], width: int = 4096) -> Conditioning:
        """The conditioning of the prompts; see `tokens_and_pooled`."""
        return Conditioning(*self.tokens_and_pooled(prompts, width))

    def tokens_and_pooled(self, prompts: Sequence[str], width: int = 4096) -> tuple[mx.array, mx.array]:
        """CLIP's tokens, then T5's, of each prompt, and the pooled vectors of both CLIPs, float32.

        The penultimate states of CLIP-L and CLIP-G stand side by side, filled up with zeros to `width`; without T5 its
        tokens are zeros. A prompt over an encoder's limit is cut, with a PromptTruncated warning. Raises UserError for
        absent or unfit files, and for prompts that are no text.
        """
        prompts = checked_prompts(prompts)
        for part in TEXT if self.use_t5 else (part for part in TEXT if part not in T5_PARTS):
            self.files.text(part)  # what is not there is told before anything is computed
        ids_l, ids_g = clip_ids(self.files, "l", prompts), clip_ids(self.files, "g", prompts)
        ids_t5 = t5_ids(self.files, prompts) if self.use_t5 else None
        states_l, pooled_l = self._run("clip_l", run_clip, ids_l)
        states_g, pooled_g = self._run("clip_g", run_clip, ids_g)
        clip = mx.concatenate([states_l, states_g], axis=-1)
        clip = mx.pad(clip, [(0, 0), (0, 0), (0, width - clip.shape[-1])])
        no_t5 = mx.zeros((len(prompts), T5_TOKENS, width))
        t5 = no_t5 if ids_t5 is None else self._run("t5", run_t5, ids_t5)
        tokens, pooled = mx.concatenate([clip, t5], axis=1), mx.concatenate([pooled_l, pooled_g], axis=-1)
        mx.eval(tokens, pooled)
        return tokens, pooled

    def free(self) -> None:
        """Frees the encoders that were kept."""
        self._kept.clear()
        mx.clear_cache()

    def _run(self, part: str, run: Callable[[Any, Ids], Any], ids: Ids) -> Any:
        encoder = self._kept.get(part) or ENCODERS[part](self.files)
        check_vocabulary(encoder, EMBEDDINGS[part], ids, str(self.files.text(part)))
        if self.keep:
            self._kept[part] = encoder
        result = run(encoder, ids)
        del encoder
        mx.clear_cache()
        return result


def check_vocabulary(encoder: Any, table: str, ids: Ids, source: str) -> None:
    """Raises UserError, beginning with `source`, for tokens beyond the encoder's `table` of embeddings."""
    rows = dict(tree_flatten(encoder.parameters()))[table].shape[0]
    if ids.max(initial=0) >= rows:
        got = f"tokens up to {ids.max()} from its tokenizer"
        raise UserError(source, got=got, expected=f"numbers below {rows}, its vocabulary")


def clip_ids(files: Files, which: str, prompts: Sequence[str]) -> Ids:
    """Begin, the prompt, end; filled up with the end token for CLIP-L ("l") and with 0 for CLIP-G ("g"), as SD3 was."""
    tokenizer = byte_tokenizer(files, which)
    room, pad = CLIP_TOKENS - 2, tokenizer.eos_token if which == "l" else 0
    rows = []
    for prompt in prompts:
        ids = truncated(tokenizer.split(prompt), room, prompt, "CLIP", tokenizer.spell)
        rows.append([tokenizer.bos_token, *ids, tokenizer.eos_token, *[pad] * (room - len(ids))])
    return np.array(rows)


def t5_ids(files: Files, prompts: Sequence[str], tokens: int = T5_TOKENS) -> Ids:
    """The prompt, end; filled up with T5_PAD to so many tokens. Without a mask T5 sees the filling, as in SD3's
    training."""
    tokenizer = SentencePieces(files.text("spiece"))
    room = tokens - 1
    rows = []
    for prompt in prompts:
        ids = truncated(tokenizer.split(prompt), room, prompt, "T5", tokenizer.spell)
        rows.append([*ids, tokenizer.eos_token, *[T5_PAD] * (room - len(ids))])
    return np.array(rows)


def run_clip(encoder: Any, ids: Ids) -> tuple[States, Float[mx.array, "prompts pooled"]]:
    """The penultimate layer's states, without the final norm, and the projected state at the end token."""
    states, pooled = [], []
    for rows in _batches(ids):
        output = encoder(rows)
        states.append(output.hidden_states[-2])
        pooled.append(output.pooled_output)
        mx.eval(states[-1], pooled[-1])
    return mx.concatenate(states), mx.concatenate(pooled)


def run_clip_last(encoder: Any, ids: Ids) -> States:
    """The last layer's states behind the final norm, as Stable Diffusion 1 reads them."""
    states = []
    for rows in _batches(ids):
        states.append(encoder(rows).last_hidden_state)
        mx.eval(states[-1])
    return mx.concatenate(states)


def run_t5(encoder: Any, ids: Ids, masked: bool = False) -> States:
    """T5's last states after its final norm; `masked` hides the filling from it."""
    states = []
    for rows in _batches(ids):
        states.append(encoder(rows, rows != T5_PAD if masked else None).astype(mx.float32))
        mx.eval(states[-1])
    return mx.concatenate(states)


def _batches(ids: Ids) -> list[mx.array]:
    return [mx.array(ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)]
