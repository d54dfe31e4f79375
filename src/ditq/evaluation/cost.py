"""What drawing costs: time per step and per picture, memory, and the machine that it was measured on."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np

import ditq
from ditq.core import plan
from ditq.core.cost import process_memory
from ditq.core.errors import UserError
from ditq.core.files import read_stored_json, write_json
from ditq.core.platform import cpu_threads, prepare
from ditq.core.schema import checked
from ditq.evaluation.report import Spread
from ditq.evaluation.same_seed import Encoded
from ditq.models.base import TextToImage
from ditq.sampling.generate import Settings, denoised

KIND, VERSION = "ditq.cost", 1


@dataclass(frozen=True)
class Machine:
    """What figures of time and memory were measured on."""

    system: str
    cores: int
    memory: int
    """Bytes of the machine."""
    device: str
    blas: str
    cpu_threads: int
    mlx: str
    ditq: str

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        found = prepare()
        return cls(
            system=f"{platform.system()} {platform.machine()}",
            cores=os.cpu_count() or 1,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            device=found.device,
            blas=found.blas,
            cpu_threads=cpu_threads(),
            mlx=version("mlx"),
            ditq=ditq.__version__,
        )

    def __str__(self) -> str:
        return (
            f"{self.system}, {self.cores} cores, {self.memory / 1e9:.0f} GB; MLX {self.mlx} on the {self.device}, "
            f"{self.blas}, {self.cpu_threads} CPU threads; ditq {self.ditq}"
        )


@dataclass(frozen=True)
class DrawingCost:
    """Time and memory of drawing one picture after another, after one that does not count."""

    variant: str
    pictures: int
    dtype: str
    """That the network computes in."""
    seconds_per_step: Spread
    """Guidance included; the first step of each picture, which also prepares the run, is left out."""
    seconds_per_picture: Spread
    """All steps and the decoder, without the text encoders."""
    mlx_peak: int
    """Bytes that MLX held at most while drawing, weights included."""
    process_peak: int
    """Bytes of memory that the process had taken at most, since it began."""
    alone: bool
    """Whether the float weights were not in memory beside the quantized ones."""


def measured_cost(
    name: str,
    model: TextToImage,
    prompt: str,
    seed: int,
    settings: Settings,
    pictures: int,
    alone: bool = True,
) -> DrawingCost:
    """The cost of `pictures` pictures, after one to warm up."""
    encoded = Encoded(model, [prompt, settings.negative])
    encoded.encode([prompt])
    network = encoded.network()
    mx.eval(network.parameters())
    mx.clear_cache()
    mx.reset_peak_memory()
    steps: list[float] = []
    wholes: list[float] = []
    for number in range(pictures + 1):
        own, whole = _timed(encoded, prompt, seed + number, settings)
        if number:
            steps, wholes = steps + own, [*wholes, whole]
    dtype = str(network.dtype).rpartition(".")[2]
    return DrawingCost(
        name,
        pictures,
        dtype,
        Spread.of(steps),
        Spread.of(wholes),
        mx.get_peak_memory(),
        process_memory(),
        alone,
    )


def _timed(model: TextToImage, prompt: str, seed: int, settings: Settings) -> tuple[list[float], float]:
    """Seconds of each step of a picture but the first (of a single step: that one), and of the whole picture."""
    ticks = [time.perf_counter()]
    for latents in denoised(model, [prompt], [seed], settings, 1, lambda: ticks.append(time.perf_counter())):
        model.decode(latents)
    whole = time.perf_counter() - ticks[0]
    return np.diff(ticks)[-max(settings.steps - 1, 1) :].tolist(), whole


def stored_cost(path: Path, key: Sequence[str]) -> DrawingCost | None:
    """The cost in a file, if it was measured for this key on this machine; else None: measure it."""
    if not path.exists():
        return None
    try:
        content = read_stored_json(path, KIND, VERSION, "an evaluation")
        if content.get("key") != _key(key):
            return None
        return checked(content.get("cost"), DrawingCost, str(path))
    except UserError:
        return None


def store_cost(path: Path, key: Sequence[str], cost: DrawingCost) -> None:
    """Writes the cost under a key, which stands for what was measured and how."""
    write_json(path, {"kind": KIND, "version": VERSION, "key": _key(key), "cost": asdict(cost)})


def _key(parts: Sequence[str]) -> str:
    return plan.digest(*parts, str(Machine.here()))
