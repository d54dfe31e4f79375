"""Variants of a model drawn from the same prompts and seeds: a PNG for each picture, latents and times by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from jaxtyping import UInt8

from ditq.calibration.stored import check_array
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_image, read_json, read_npz, write_npz, write_png
from ditq.evaluation.metrics import Samples
from ditq.evaluation.variants import Variant, slug_of
from ditq.models.base import TextToImage
from ditq.models.digest import weights_digest
from ditq.sampling.generate import Settings, denoised

HELD = ("latents", "seconds", "peak_memory")
"""The arrays of a batch; its pictures are PNGs beside them, written before."""


@dataclass(frozen=True)
class Drawn:
    """The pictures of a variant in its folder, read batch by batch."""

    folder: Path
    prompts: Sequence[str]
    batch_size: int

    def __len__(self) -> int:
        return len(self.prompts)

    def batches(self) -> Iterator[Samples]:
        """The pictures and latents of one batch after the other."""
        for start in self._starts:
            prompts = self.prompts[start : start + self.batch_size]
            part, pictures = read_part(self.folder, start, len(prompts))
            yield Samples(prompts, pictures, part["latents"])

    def pictures(self, chosen: Sequence[int]) -> UInt8[np.ndarray, "chosen height width 3"]:
        """Some of the pictures, by their prompts' numbers; only these are read."""
        return np.stack([_picture(picture_of(self.folder, number)) for number in chosen])

    @cached_property
    def seconds_per_step(self) -> float:
        """Median over the denoise steps, per picture, guidance included."""
        return float(np.median(np.concatenate(self._each("seconds"))))

    @cached_property
    def peak_memory(self) -> int:
        """Bytes that MLX held at most while drawing, including the float weights that a variant was made from."""
        return max(int(peak) for peak in self._each("peak_memory"))

    @property
    def _starts(self) -> range:
        return range(0, len(self.prompts), self.batch_size)

    def _each(self, name: str) -> list[np.ndarray]:
        return [read_npz(part_of(self.folder, start), (name,))[name] for start in self._starts]


def draw(
    model: TextToImage,
    variant: Variant,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    batch_size: int,
    on_picture: Callable[[int], None] = lambda count: None,
) -> Drawn:
    """The variant's pictures in `folder/<variant>`: finished batches are kept, the others, also those of which the file
    is cut off or not as it must be, are drawn.

    `on_picture(n)` reports n more pictures. Raises UserError when the variant's folder was begun with something else,
    other weights of the float model included.
    """
    own = folder / variant.slug
    asked = {
        "model": model.name,
        "variant": variant.name,
        "fingerprint": variant.fingerprint,
        "prompts": list(prompts),
        "seeds": list(seeds),
        "settings": settings.recorded(),
        "batch_size": batch_size,
    }
    starts = range(0, len(prompts), batch_size)
    todo = list(starts)
    if (own / "plan.json").exists():
        todo = [at for at in starts if not _whole(own, at, len(prompts[at : at + batch_size]), settings)]
    if todo:  # text encoders and network shall not lie in memory together
        model.encode(list(prompts))
    asked[plan.WEIGHTS] = weights_digest(model.network())
    plan.begin(own / "plan.json", asked, resume=True, threads=True)
    on_picture(sum(len(prompts[start : start + batch_size]) for start in starts if start not in todo))
    if todo:
        with variant.opened(model) as opened:
            for start in todo:
                rows = slice(start, start + batch_size)
                _draw_batch(opened, prompts[rows], seeds[rows], settings, own, start)
                on_picture(len(prompts[rows]))
        mx.clear_cache()
    return Drawn(own, list(prompts), batch_size)


def read_drawn(folder: Path, name: str) -> Drawn:
    """What `draw` left in `folder` of the variant of this name. Raises UserError when there is nothing of it."""
    path = folder / slug_of(name) / "plan.json"
    asked = read_json(path)
    if not isinstance(asked, dict) or not {"prompts", "batch_size"} <= set(asked):
        raise UserError(str(path), got="another kind of file", expected="the settings of drawn pictures")
    return Drawn(path.parent, asked["prompts"], asked["batch_size"])


def read_part(
    folder: Path, start: int, count: int
) -> tuple[dict[str, np.ndarray], UInt8[np.ndarray, "count height width 3"]]:
    """The arrays and the pictures of a batch of `count` pictures that begins with number `start`.

    Raises UserError for a file that is missing, cut off or of another batch.
    """
    path = part_of(folder, start)
    try:
        part = read_npz(path, HELD)
        check_array(path, "latents", part["latents"], (count, None, None, None), "float32")
        check_array(path, "seconds", part["seconds"], (None,), "float64")
        pictures = [_picture(picture_of(folder, start + row)) for row in range(count)]
        for row, picture in enumerate(pictures):
            check_array(picture_of(folder, start + row), "pixels", picture, pictures[0].shape, "uint8")
    except UserError as error:
        remedy = "run the same command again: it draws this batch again"
        raise UserError(error.what, got=error.got, expected=error.expected, remedy=remedy) from error
    return part, np.stack(pictures)


def _whole(folder: Path, start: int, count: int, settings: Settings) -> bool:
    """Whether a batch's files can be read, and its pictures are as many and as large as asked for."""
    try:
        pictures = read_part(folder, start, count)[1]
    except UserError:
        return False
    return pictures.shape[1:3] == (settings.height, settings.width)


def part_of(folder: Path, start: int) -> Path:
    """The file of the arrays of the batch that begins with picture `start`."""
    return folder / f"{start:05d}.npz"


def picture_of(folder: Path, number: int) -> Path:
    """The file of a picture."""
    return folder / f"{number:05d}.png"


def _picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    return read_image(path)[0]


def _draw_batch(
    model: TextToImage,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    start: int,
) -> None:
    mx.reset_peak_memory()
    ticks = [time.perf_counter()]
    batches = denoised(
        model, prompts, seeds, settings, len(prompts), lambda: ticks.append(time.perf_counter())
    )
    latents = mx.concatenate(list(batches))
    part = {
        "latents": np.array(latents.astype(mx.float32)),
        # the first step also prepares the run
        "seconds": np.diff(ticks)[-settings.steps + 1 :] / len(prompts),
        "peak_memory": np.array(mx.get_peak_memory()),
    }
    for row, picture in enumerate(np.array(model.decode(latents))):
        told = {"prompt": prompts[row], "seed": str(seeds[row]), **settings.as_text()}
        write_png(picture_of(folder, start + row), picture, told)
    write_npz(part_of(folder, start), part)
