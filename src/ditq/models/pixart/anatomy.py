"""What every layer of a PixArt transformer is."""

from collections.abc import Iterator
from functools import cache

from ditq.models.anatomy import Anatomy, Role, Site
from ditq.models.pixart.config import PixArtConfig

BLOCK = "transformer_blocks.{}"
IMAGE, TEXT, MODULATION = "image", "text", "modulation"
STREAMS = {IMAGE: "img", TEXT: "txt", MODULATION: "mod"}


@cache
def pixart_anatomy(config: PixArtConfig) -> Anatomy:
    """The anatomy of a PixArt transformer of this shape."""
    sites = [*_text(), *_modulation(config)]
    sites.append(Site("pos_embed.proj", "embedder", phase="begin", stream=IMAGE, quantizable=False))
    sites.append(Site("proj_out", "head", phase="finish", stream=IMAGE))
    for number in range(config.depth):
        sites += _block(number)
    return Anatomy("pixart", tuple(BLOCK.format(i) for i in range(config.depth)), sites, STREAMS)


def _text() -> Iterator[Site]:
    """The two layers that bring the text to the model's width, once a run."""
    for stage in (0, 1):
        path = f"caption_projection.linear_{stage + 1}"
        yield Site(path, "embedder", stage=stage, phase="prepare", stream=TEXT, rows="prompt_tokens")


def _modulation(config: PixArtConfig) -> Iterator[Site]:
    """What makes the modulation that all blocks share. It runs at each step, since the latents' size takes part."""

    def site(name: str, role: Role, stage: int, **facts) -> Site:
        return Site(f"adaln_single.{name}", role, stage=stage, phase="begin", stream=MODULATION, **facts)

    for stage in (0, 1):
        yield site(f"emb.timestep_embedder.linear_{stage + 1}", "embedder", stage, rows="steps")
        if config.size_conditioned:  # they see one size in a whole calibration: no data to quantize them on
            for name in ("resolution", "aspect_ratio"):
                path = f"emb.{name}_embedder.linear_{stage + 1}"
                yield site(path, "embedder", stage, rows="pairs", quantizable=False)
    yield site("linear", "modulation", 2, rows="pairs")


def _block(number: int) -> Iterator[Site]:
    """A block's layers in the order of execution; keys and values of the text wait for nothing.

    No factors can be folded into the modulation in front of a layer: all blocks share it.
    """
    block, short = BLOCK.format(number), f"block_{number:02d}"

    def site(name: str, role: Role, stage: int, first: str = "", stream: str = IMAGE) -> Site:
        """A layer; `first` is the one that receives the same input before it."""
        shared = f"{block}.{first}" if first else ""
        label = short if role == "mlp_out" else f"{short}.{name}"
        return Site(f"{block}.{name}", role, shared, stage, block, stream=stream, label=label)

    for letter in "qkv":
        yield site(f"attn1.to_{letter}", "attention_in", 0, first="attn1.to_q")
    yield site("attn1.to_out.0", "attention_out", 1)
    yield site("attn2.to_q", "attention_in", 2)
    for letter in "kv":
        yield site(f"attn2.to_{letter}", "attention_in", 0, first="attn2.to_k", stream=TEXT)
    yield site("attn2.to_out.0", "attention_out", 3)
    yield site("ff.fc1", "mlp_in", 4)
    yield site("ff.fc2", "mlp_out", 5)
