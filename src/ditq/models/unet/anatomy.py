"""What every layer of a UNet is."""

from collections.abc import Iterator
from functools import cache

from ditq.models.anatomy import Anatomy, Role, Site
from ditq.models.unet.config import UNetConfig
from ditq.models.unet.walk import IMAGE, TEXT, Step, walk

STREAMS = {IMAGE: "img", TEXT: "txt"}
TOLD = "down_blocks.0.resnets.0.time_emb_proj"
"""The first of the layers that turn the embedded timestep into what a ResNet adds; all receive the same."""


@cache
def unet_anatomy(config: UNetConfig) -> Anatomy:
    """The anatomy of a UNet of this shape."""
    steps = walk(config)
    sites = [
        Site("time_embedding.linear_1", "embedder", phase="prepare", rows="steps"),
        Site("time_embedding.linear_2", "embedder", stage=1, phase="prepare", rows="steps"),
        Site("conv_in", "embedder", phase="begin", stream=IMAGE, quantizable=False),
        Site("conv_out", "head", phase="finish", stream=IMAGE),
    ]
    for step in steps:
        sites += LAYERS[step.kind](step)
    return Anatomy("unet", tuple(step.path for step in steps), sites, STREAMS)


def _sampler(step: Step) -> Iterator[Site]:
    """The one layer of a down- or upsampler."""
    yield _site(step, "conv", "convolution", 0)


def _resnet(step: Step) -> Iterator[Site]:
    """Its layers. What it is told of the timestep is computed once a run."""
    joins = step.image if step.skip else None
    yield Site(
        f"{step.path}.time_emb_proj",
        "modulation",
        TOLD,
        stage=2,
        block=step.path,
        phase="prepare",
        stream=IMAGE,
        rows="steps",
        label=_label(step, "time_emb_proj"),
    )
    yield _site(step, "conv1", "convolution", 0, joins=joins)
    yield _site(step, "conv2", "convolution", 1)
    if step.image + step.skip != step.out:
        yield _site(step, "conv_shortcut", "convolution", 0, joins=joins)


def _transformer(step: Step) -> Iterator[Site]:
    """Its layers in the order of execution; keys and values of the text wait for nothing."""
    inner = "transformer_blocks.0"
    yield _site(step, "proj_in", "projection", 0)
    for letter in "qkv":
        yield _site(step, f"{inner}.attn1.to_{letter}", "attention_in", 1, first=f"{inner}.attn1.to_q")
    yield _site(step, f"{inner}.attn1.to_out.0", "attention_out", 2)
    yield _site(step, f"{inner}.attn2.to_q", "attention_in", 3)
    for letter in "kv":
        path = f"{inner}.attn2.to_{letter}"
        yield _site(step, path, "attention_in", 0, first=f"{inner}.attn2.to_k", stream=TEXT)
    yield _site(step, f"{inner}.attn2.to_out.0", "attention_out", 4)
    yield _site(step, f"{inner}.ff.fc1", "mlp_in", 5)
    yield _site(step, f"{inner}.ff.fc2", "mlp_out", 6)
    yield _site(step, "proj_out", "projection", 7)


def _site(
    step: Step,
    name: str,
    role: Role,
    stage: int,
    first: str = "",
    stream: str = IMAGE,
    joins: int | None = None,
) -> Site:
    """A layer of a block; `first` is the one that receives the same input before it."""
    label = _label(step) if role == "mlp_out" else _label(step, name.removeprefix("transformer_blocks.0."))
    shared = f"{step.path}.{first}" if first else ""
    path = f"{step.path}.{name}"
    return Site(path, role, shared, stage, step.path, stream=stream, label=label, joins=joins)


def _label(step: Step, name: str = "") -> str:
    """`down_blocks.0.attentions.1` -> "down_0_attn_1", then the layer's name."""
    short = {
        "down_blocks": "down",
        "mid_block": "mid",
        "up_blocks": "up",
        "resnets": "res",
        "attentions": "attn",
        "downsamplers": "half",
        "upsamplers": "double",
    }
    block = "_".join(short.get(part, part) for part in step.path.split("."))
    return f"{block}.{name}" if name else block


LAYERS = {"resnet": _resnet, "transformer": _transformer, "downsample": _sampler, "upsample": _sampler}
"""What gives the layers of each kind of block."""
