"""Training in several processes: each takes its share of every batch, and the gradients are averaged.

On a busy CPU two processes of one thread are much faster than one process of two: threads wait for each other after
every operation, processes once a step. The result is that of one process, up to rounding.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed, multiprocessing


@dataclass(frozen=True)
class Team:
    """`workers` processes, of which this one is number `rank`."""

    rank: int = 0
    workers: int = 1

    @property
    def leads(self) -> bool:
        """True for the one process that logs and saves."""
        return self.rank == 0

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """This process's rows of a batch."""
        return batch[self.rank :: self.workers]

    def average(self, tensors: list[torch.Tensor]) -> None:
        """Replaces the tensors by their means over all processes."""
        if self.workers == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = (flat / self.workers).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def run(work: Callable[..., None], workers: int, threads: int, *arguments) -> None:
    """Calls `work(team, *arguments)` in `workers` processes that share `threads` threads."""
    if workers == 1:
        torch.set_num_threads(threads)
        work(Team(), *arguments)
        return
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    each = max(1, threads // workers)
    multiprocessing.spawn(_member, (workers, each, port, work, arguments), nprocs=workers)


def _member(
    rank: int, workers: int, threads: int, port: int, work: Callable[..., None], arguments: tuple
) -> None:
    torch.set_num_threads(threads)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=workers)
    try:
        work(Team(rank, workers), *arguments)
    finally:
        distributed.destroy_process_group()
