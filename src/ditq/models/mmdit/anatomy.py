"""What every layer of an MMDiT is."""

from collections.abc import Iterator
from functools import cache

from ditq.models.anatomy import Anatomy, Fold, Role, Site
from ditq.models.mmdit.config import MMDiTConfig

BLOCK = "multimodal_transformer_blocks.{}"
STREAMS = {"image": "img", "text": "txt"}
CHUNKS = {"attn": 0, "mlp": 3, "attn2": 6}
"""Of the adaLN's output, the chunk with the shift in front of each part of a block; its scale follows."""


@cache
def mmdit_anatomy(config: MMDiTConfig) -> Anatomy:
    """The anatomy of an MMDiT of this shape."""
    depth = config.depth_multimodal
    sites = [*_embedders(), *_head()]
    for number in range(depth):
        for stream in STREAMS:
            dual = stream == "image" and number in config.dual_attention_blocks
            sites += _half(number, stream, dual, ends=stream == "text" and number == depth - 1)
    return Anatomy("mmdit", tuple(BLOCK.format(i) for i in range(depth)), sites, STREAMS)


def _embedders() -> Iterator[Site]:
    yield Site("x_embedder.proj", "embedder", phase="begin", stream="image", quantizable=False)
    yield Site("context_embedder", "embedder", phase="begin", stream="text", rows="prompt_tokens")
    for stage, layer in enumerate((0, 2)):
        yield Site(f"t_embedder.mlp.layers.{layer}", "embedder", stage=stage, phase="prepare", rows="steps")
        yield Site(f"y_embedder.mlp.layers.{layer}", "embedder", stage=stage, phase="prepare", rows="prompts")


def _head() -> Iterator[Site]:
    yield _modulation("final_layer", role="head")
    yield Site("final_layer.linear", "head", phase="finish", stream="image")


def _modulation(owner: str, role: Role = "modulation", **facts) -> Site:
    """An adaLN layer. All of them receive silu of one and the same condition."""
    first = f"{BLOCK.format(0)}.image_transformer_block"
    path = "{}.adaLN_modulation.layers.1"
    return Site(path.format(owner), role, path.format(first), stage=2, phase="prepare", rows="pairs", **facts)


def _half(number: int, stream: str, dual: bool, ends: bool) -> Iterator[Site]:
    """One stream of a block, in the order of execution."""
    block = BLOCK.format(number)
    owner, short = f"{block}.{stream}_transformer_block", f"mm_{number:02d}_{STREAMS[stream]}"
    norm = _modulation(owner, block=block, stream=stream, label=f"{short}.adaLN_modulation.layers.1")
    yield norm

    def site(part: str, name: str, role: Role, stage: int, first: str = "", folds: bool = False) -> Site:
        """A layer of the block; `folds` where the modulated norm in front of it can take factors in."""
        fold = Fold(norm.path, CHUNKS[part], CHUNKS[part] + 1) if folds else None
        shared = f"{owner}.{part}.{first}" if first else ""
        label = short if role == "mlp_out" else f"{short}.{part}.{name}"
        path = f"{owner}.{part}.{name}"
        return Site(path, role, shared, stage, block, stream=stream, label=label, fold=fold)

    for part in ("attn", "attn2") if dual else ("attn",):
        for letter in "qkv":
            yield site(part, f"{letter}_proj", "attention_in", 0, first="q_proj", folds=True)
        if not ends:
            yield site(part, "o_proj", "attention_out", 1)
    if not ends:
        yield site("mlp", "fc1", "mlp_in", 2, folds=True)
        yield site("mlp", "fc2", "mlp_out", 3)
