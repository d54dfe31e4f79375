"""Which layers are observed, and what they are called in figures."""

import re
from collections.abc import Sequence

import mlx.nn as nn

from ditq.capture import linears
from ditq.core.errors import UserError

POSTGELU = ".mlp.fc2"
"""How the path of a layer that receives post-GELU activations ends."""
INPUTS = ("postgelu", "all")
STREAMS = {"image": "img", "text": "txt"}
_IN_BLOCK = r"(multimodal|unified)_transformer_blocks\.(\d+)\.(?:(image|text)_)?transformer_block\.(.+)"


def observed_paths(model: nn.Module, inputs: str) -> list[str]:
    """The paths of the linear layers whose inputs are observed: "postgelu" or "all"."""
    return [path for path in linears(model) if inputs == "all" or path.endswith(POSTGELU)]


def block_linears(model: nn.Module) -> list[str]:
    """The paths of the linear layers that are quantized by default: those of the blocks, without their modulation."""
    return [path for path in linears(model) if within_block(path)]


def within_block(path: str) -> bool:
    """Whether this layer belongs to the attentions and MLPs of a block."""
    return re.fullmatch(_IN_BLOCK, path) is not None and ".adaLN_modulation." not in path


def shared_input(path: str) -> str:
    """The layer that is observed for this one: queries, keys and values of a stream receive the same input."""
    return re.sub(r"\.[kv]_proj$", ".q_proj", path)


def label(path: str) -> str:
    """A short name: mm_03_txt for the post-GELU input of block 3's text stream, mm_03_txt.attn.q_proj for another's.

    Layers outside the blocks keep their paths.
    """
    found = re.fullmatch(_IN_BLOCK, path)
    if found is None:
        return path
    kind, block, stream, rest = found.groups()
    name = f"mm_{int(block):02d}_{STREAMS[stream]}" if kind == "multimodal" else f"uni_{int(block):02d}"
    return name if path.endswith(POSTGELU) else f"{name}.{rest}"


def stream(path: str) -> str | None:
    """The stream, image or text, or None for a layer that belongs to neither."""
    return next((name for name in STREAMS if f".{name}_transformer_block." in path), None)


def chosen(paths: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those of `paths` that `wanted` names, by path or label, in its order; "all" is all of them.

    Raises UserError for a name that is none of them.
    """
    if list(wanted) == ["all"]:
        return list(paths)
    by_name = {label(path): path for path in paths} | {path: path for path in paths}
    for name in wanted:
        if name not in by_name:
            known = ", ".join(label(path) for path in paths[:6]) + (", ..." if len(paths) > 6 else "")
            raise UserError("--layers", got=name, expected=f"a path or label of {len(paths)}: {known}")
    return [by_name[name] for name in wanted]


def representative(paths: Sequence[str]) -> list[str]:
    """The first, middle and last layer of each stream: what is drawn when nothing is chosen."""
    streams = [[path for path in paths if stream(path) == name] for name in (*STREAMS, None)]
    picked = [own[i] for own in streams if own for i in (0, len(own) // 2, -1)]
    return list(dict.fromkeys(picked))
