"""The trained networks of a run folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from mini import nets, words

Network = TypeVar("Network", bound=nn.Module)


def load_flow(folder: Path) -> tuple[nn.Module, nets.TextEncoder]:
    """The averaged transformer and text encoder of the last checkpoint, in float32."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    model, text = nets.transformer(), nets.TextEncoder(len(words.vocabulary()), words.MAX_WORDS)
    nn.ModuleDict({"transformer": model, "text": text}).load_state_dict(state["ema"])
    return model.eval(), text.eval()


def load_network(network: Network, path: Path) -> Network:
    """`network` with the weights of `path`."""
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def rounded(network: Network) -> Network:
    """A float32 copy of `network` whose weights went through float16, as the exported ones do."""
    copied = copy.deepcopy(network)
    for parameter in [*copied.parameters(), *copied.buffers()]:
        parameter.data = parameter.data.half().float()
    return copied
