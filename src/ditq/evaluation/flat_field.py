"""Noise where a picture should be flat, and how it grows with the number of steps.

Coarse weights leave grain in skies, walls and plain backgrounds, often the more of it the more steps are taken, since
every step adds its own error. A score over whole pictures hides that behind their texture. Here prompts of flat scenes
are drawn at half, once and twice the number of steps, and noise is measured in the flattest quarter of the float
picture's tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.evaluation.drawing import Drawn, draw
from ditq.evaluation.metrics.base import Picture
from ditq.evaluation.variants import Variant
from ditq.models.base import TextToImage
from ditq.sampling.generate import Settings

TILE = 16
"""Side of a tile in pixels."""
FLATTEST = 0.25
"""Part of the tiles that noise is measured in."""
PROMPTS = (
    "a plain light grey studio background, empty, evenly lit",
    "a clear blue sky without clouds",
    "a smooth white wall, evenly lit, nothing else",
    "a solid teal background, flat colour",
)
MINI_PROMPTS = (
    "a small fox on a white background",
    "a small penguin on a blue background",
    "a small cactus on a green background",
    "a small robot on a yellow background",
)


@dataclass(frozen=True)
class FlatField:
    """The noise of one variant in flat tiles, in levels of 255, at several numbers of steps."""

    variant: str
    pictures: int
    steps: list[int]
    float_noise: list[float]
    """Standard deviation around a plane, of the float model."""
    noise: list[float]
    """The same of the variant, in the same tiles."""

    @property
    def added(self) -> list[float]:
        """What quantization adds: variances subtract; 0 where the variant is no noisier."""
        pairs = zip(self.noise, self.float_noise, strict=True)
        return [float(np.sqrt(max(own**2 - known**2, 0.0))) for own, known in pairs]

    @property
    def growth(self) -> float | None:
        """The added noise at the most steps over that at the fewest; None where there is none at the fewest."""
        first, last = self.added[0], self.added[-1]
        return last / first if first > 0 else None


def flat_prompts(model_name: str, count: int) -> list[str]:
    """`count` prompts of flat scenes, repeated as needed (each has a seed of its own)."""
    known = MINI_PROMPTS if model_name == "mini" else PROMPTS
    return [known[number % len(known)] for number in range(count)]


def step_counts(settings: Settings) -> list[int]:
    """Half, once and twice the number of steps, as far as the noise process has them."""
    most = settings.process.most_steps or 2 * settings.steps
    return sorted({max(1, settings.steps // 2), settings.steps, min(2 * settings.steps, most)})


def tile_variances(picture: Picture) -> Float[np.ndarray, "tiles"]:
    """Variance of each 16 x 16 tile around its best plane, mean over channels, in squared levels of 255.

    A plane takes out light that falls off evenly. Rows and columns beyond the last whole tile are left out. Raises
    UserError for a picture smaller than a tile.
    """
    rows, columns = picture.shape[0] // TILE, picture.shape[1] // TILE
    if not rows * columns:
        raise UserError(
            "flat-field test",
            got=f"pictures of {picture.shape[1]} x {picture.shape[0]}",
            expected="16 x 16 or more",
        )
    whole = picture[: rows * TILE, : columns * TILE].astype(np.float64)
    tiles = whole.reshape(rows, TILE, columns, TILE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, TILE * TILE)
    y, x = np.mgrid[:TILE, :TILE].reshape(2, -1)
    basis, _ = np.linalg.qr(np.stack([np.ones(TILE * TILE), x, y], axis=1).astype(np.float64))
    rest = tiles - (tiles @ basis) @ basis.T
    return np.square(rest).sum(axis=2).mean(axis=1) / (TILE * TILE - 3)


def noise_in_flat_tiles(reference: Drawn, candidate: Drawn) -> tuple[float, float]:
    """Noise of both in the flattest quarter of each reference picture's tiles: root mean square over all pictures."""
    ours, theirs = [], []
    for one, other in zip(reference.batches(), candidate.batches(), strict=True):
        for known, picture in zip(one.pictures, other.pictures, strict=True):
            variances = tile_variances(known)
            flat = np.argsort(variances, kind="stable")[: max(1, round(FLATTEST * len(variances)))]
            ours.append(variances[flat].mean())
            theirs.append(tile_variances(picture)[flat].mean())
    return float(np.sqrt(np.mean(ours))), float(np.sqrt(np.mean(theirs)))


def flat_field(
    model: TextToImage,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    batch_size: int = 1,
    on_picture: Callable[[int], None] = lambda count: None,
) -> list[FlatField]:
    """The noise of each of `variants[1:]` beside that of `variants[0]`, the float model, on a flat picture a seed.

    Finished batches lie in `folder` and are not drawn again.
    """
    prompts, counts = flat_prompts(model.name, len(seeds)), step_counts(settings)
    found: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in variants[1:]}
    for count in counts:
        asked = (
            prompts,
            seeds,
            replace(settings, steps=count),
            folder / f"{count}_steps",
            batch_size,
            on_picture,
        )
        reference = draw(model, variants[0], *asked)
        for variant in variants[1:]:
            found[variant.name].append(noise_in_flat_tiles(reference, draw(model, variant, *asked)))
    return [
        FlatField(name, len(prompts), counts, [one for one, _ in pairs], [other for _, other in pairs])
        for name, pairs in found.items()
    ]
