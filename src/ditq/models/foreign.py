"""What a file's keys say that it is, when it is not what was looked for; and what trainers put before every key."""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from ditq.core.errors import UserError

T = TypeVar("T")


@runtime_checkable
class Shaped(Protocol):
    """An array, or what a file's header says of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its axes."""
        ...


_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and checkpointing put into paths."""
_OUTER = ("module.", "state_dict.")
"""What DistributedDataParallel and trainers put before all paths."""

_NO_MODELS: tuple[tuple[str, str], ...] = (
    (
        r"(lora_(A|B|a|b|up|down|unet|te\d?)\b|lora_(unet|te)|\.lora\.|\.hada_w|\.lokr_|\.dora_scale|\.diff(_b)?$)",
        "a LoRA: changes to a model, not a model; merge it into the model first (in diffusers: load_lora_weights, "
        "fuse_lora, save_pretrained) and give the merged checkpoint",
    ),
    (
        r"^(controlnet[_.]|control_model\.|input_hint_block\.|control_)",
        "a ControlNet: an addition to a model, not a model",
    ),
    (r"^image_proj(_model)?\.|^ip_adapter\.", "an IP-Adapter: an addition to a model, not a model"),
    (r"\.(qweight|qzeros|wscales|smooth_factor)$", "a checkpoint quantized by GPTQ, AWQ or SVDQuant"),
    (r"\.(absmax|quant_map|SCB|quant_state\..*)$", "a checkpoint quantized by bitsandbytes"),
    (
        r"\.scales$",
        "a quantized checkpoint in MLX's format, not a model in floating point; where ditq wrote it, give its folder "
        "to --checkpoint",
    ),
)
"""Patterns of keys that no whole model in floating point has, and what has them."""
_MODELS: tuple[tuple[str, str], ...] = (
    (r"^(double_blocks|single_blocks|single_transformer_blocks)\.", "FLUX or a model of its kind"),
    (
        r"^(adaln_single|caption_projection|t_block)\.|\.cross_attn\.|y_embedder\.y_embedding",
        "PixArt or a model of its kind",
    ),
    (r"^(noise_refiner|context_refiner|cap_embedder)\.", "a Lumina or Z-Image transformer"),
    (r"\.img_mod\.|^txt_norm\.", "a Qwen-Image transformer"),
    (r"^add_embedding\.|^label_emb\.", "the UNet of Stable Diffusion XL"),
    (r"^(down_blocks\.\d+\.attentions|input_blocks|output_blocks)\.", "the UNet of Stable Diffusion 1 or 2"),
    (
        r"^(multimodal_transformer_blocks|joint_blocks|transformer_blocks\.\d+\.norm1_context)\b",
        "a transformer of the SD3 family",
    ),
    (r"^text_model\.|^text_projection\.", "a CLIP text encoder"),
    (r"^(shared\.|encoder\.block\.)", "a T5 text encoder"),
    (r"^(first_stage_model\.)?(encoder|decoder)\.(conv_in|mid|up|down|mid_block)\b", "a VAE"),
    (r"^(layers\.\d+\.self_attn|lm_head|h\.\d+)\.", "a language model"),
    (r"^(optimizer|exp_avg|param_groups)", "the state of an optimizer"),
)
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "model.")


def what_it_is(weights: Mapping[str, Shaped]) -> str | None:
    """What weights with these keys are, in words, or None where no pattern fits."""
    words = no_model(weights) or _first(_MODELS, weights)
    return f"{words}, for inpainting" if words and "UNet" in words and _inpaints(weights) else words


def no_model(weights: Mapping[str, Shaped]) -> str | None:
    """What weights are that are an addition to a model, or quantized, in words; None for anything else."""
    return _first(_NO_MODELS, weights)


def _first(kinds: tuple[tuple[str, str], ...], weights: Mapping[str, Shaped]) -> str | None:
    keys = [_bare(key) for key in weights]
    return next((words for pattern, words in kinds if any(re.search(pattern, key) for key in keys)), None)


def unwrapped(weights: Mapping[str, T], source: str) -> dict[str, T]:
    """The weights under their paths without what trainers put into them: `_orig_mod.`, `module.`.

    Raises UserError where two keys become one.
    """
    names = {key: _WRAPPERS.sub("", key) for key in weights}
    for prefix in _OUTER:
        if names and all(name.startswith(prefix) for name in names.values()):
            names = {key: name.removeprefix(prefix) for key, name in names.items()}
    return renamed(weights, names, source)


def renamed(weights: Mapping[str, T], names: Mapping[str, str], source: str) -> dict[str, T]:
    """The weights under new names. Raises UserError where two of them get the same."""
    found: dict[str, str] = {}
    for key, name in names.items():
        if name in found:
            raise UserError(
                source,
                got=f"both {found[name]} and {key}",
                expected="one of them: they are the same parameter",
            )
        found[name] = key
    return {name: weights[key] for name, key in found.items()}


def rewritten(key: str, rules: Iterable[tuple[str, str]]) -> str:
    """The key after all replacements (pattern, what stands in its place), in order."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _bare(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _inpaints(weights: Mapping[str, Shaped]) -> bool:
    """Whether a UNet takes a mask and a picture beside its latents."""
    first = ("input_blocks.0.0.weight", "conv_in.weight")
    return any(
        _bare(key) in first and len(array.shape) == 4 and 9 in array.shape[1::2]
        for key, array in weights.items()
    )
