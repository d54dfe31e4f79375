"""This machine's speed with a model, measured on random weights before any are loaded."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_map

from ditq.core.cost import Cost, Speed, machine_speed, process_memory, timed
from ditq.models.base import Geometry, Network, TextToImage
from ditq.models.cost import blank_conditioning, block_shares, parameter_count
from ditq.models.state import run_block

WHOLE = 2e10
"""Operations up to which a pass through the whole network is timed, beyond, one block."""
RUNNING = 27e6
"""Bytes that a program takes more when it runs: modules that are imported late, buffers of files and threads."""
LOADING = 8
"""Element-wise operations that take as long as reading a weight, converting it and digesting its bytes."""
LARGEST = 2e11
"""Operations that are timed at once; larger batches are taken to last in proportion."""


@dataclass(frozen=True)
class Machine:
    """What forecasts know of this machine and a model on it."""

    speed: Speed
    start: float
    """Seconds until a command begins to compute."""
    process: float
    """Bytes of the program itself when it runs."""
    weights: float
    """Bytes of the network's weights as they are computed with."""
    batch: float
    """Bytes that a pass of a batch takes beside them."""

    def seconds(self, cost: Cost) -> float:
        """What a command of this cost takes from its start, with loading and checking the weights."""
        loading = Cost(values=LOADING * self.weights / 4)
        return self.start + self.speed.seconds(cost + loading)

    def memory(self, cost: Cost) -> int:
        """Bytes of the whole process at its peak."""
        return round(self.process + self.weights + self.batch + cost.memory)


def probe(model: TextToImage, rows: int, height: int, width: int) -> Machine:
    """The machine as it is now, in about a second; larger networks' single block may take some seconds."""
    start, process = time.process_time(), process_memory()
    network = model.skeleton()
    weights = parameter_count(network) * model.dtype.size
    seconds, held = row_cost(network, model, rows, height, width)
    return Machine(machine_speed(seconds), start, process + RUNNING, weights, held)


def probe_alone() -> Machine:
    """The machine for a command that loads no model, and has read what it works on."""
    return Machine(machine_speed(0.0), time.process_time(), process_memory(), 0.0, 0.0)


def row_cost(network: Network, model: TextToImage, rows: int, height: int, width: int) -> tuple[float, float]:
    """Seconds of a row in a batch of `rows`, and the bytes that the batch takes beside the weights."""
    geometry = model.geometry
    flops = network.step_flops(1, height, width, geometry.text_tokens)
    small = flops <= WHOLE
    share = 1.0 if small else max(block_shares(network, geometry, height, width).values())
    tried = int(min(rows, max(1, LARGEST / (flops * share))))
    network.set_dtype(model.dtype)
    inputs = network.prepare(blank_conditioning(geometry, tried), mx.array([500.0]))
    shape = (tried, height, width, geometry.latent_channels)
    latents = mx.random.normal(shape).astype(model.dtype)
    if small:
        mx.eval(network.parameters(), latents, inputs.at(0))
        run = lambda: mx.eval(network(latents, **inputs.at(0)))  # noqa: E731
    else:
        run = _block_run(network, geometry, height, width, list(network.boundaries(latents, **inputs.at(0))))
    held = _held(run)
    return timed(run) / share / tried, held * rows / tried


def _block_run(
    network: Network, geometry: Geometry, height: int, width: int, states: list[dict[str, mx.array]]
) -> Callable[[], object]:
    """Runs the largest block on random values in the shapes of the state before it."""
    shares = block_shares(network, geometry, height, width)
    number = list(shares).index(max(shares, key=lambda path: shares[path]))
    block = network.blocks[number]
    state = {name: _random(states[number][name]) for name in block.reads}
    mx.eval(block.parameters(), state)
    return lambda: mx.eval([run_block(block, state)[name] for name in block.writes])


def _random(array: mx.array) -> mx.array:
    return tree_map(lambda one: mx.random.normal(one.shape).astype(one.dtype), array)


def _held(run: Callable[[], object]) -> int:
    """Bytes that MLX takes for a run, those that it keeps for the next one included."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    run()
    return max(mx.get_peak_memory() - before, mx.get_active_memory() + mx.get_cache_memory() - before)
