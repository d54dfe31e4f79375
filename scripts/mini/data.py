"""The `mini` data set: one emoji on one background, and the captions that describe it.

The objects are Microsoft's Fluent emoji (flat), MIT licensed, from the npm package
`@iconify-json/fluent-emoji-flat`. A caption names object, colour, size, position and background; small shifts, a slight
rotation and the look of the background are not named: they are the noise's to decide.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from mini.icons import sprite
from mini.scenes import BACKGROUNDS, SIZE
from mini.words import COLOURED, COLOURS, OBJECTS, POSITIONS, SIZES

# size word -> pixels, and how far left and right are from the middle; a large object fills the picture
PIXELS = {"small": (48, 34), "": (72, 26), "large": (104, 0)}
GROUND = 118  # objects in a scene with ground stand near this row
SHIFT, ANGLE = 4.0, 9.0  # largest unnamed shift in pixels and rotation in degrees
HELD_OUT_EVERY = 6
COUNT = 36_000


@dataclass(frozen=True)
class Picture:
    """What one picture shows, as indices into the lists of `mini.words`; `colour` is -1 for objects without."""

    object: int
    colour: int
    background: int
    size: int
    position: int

    @property
    def held_out(self) -> bool:
        return held_out(self.object, self.background)


def held_out(obj: int, background: int) -> bool:
    """True for the one (object, background) combination in six that training never sees."""
    return (obj + background * 5) % HELD_OUT_EVERY == 3


def visible(colour: int, background: int) -> bool:
    """False for an object on a plain background of its own colour."""
    return colour < 0 or COLOURS[colour] != BACKGROUNDS[background].name


def pictures(count: int = COUNT) -> list[Picture]:
    """What the pictures of the data set show, in a fixed order; a coloured object is shown twice as often."""
    rng = random.Random(0)
    shares = [2 if name in COLOURED else 1 for name in OBJECTS]
    found: list[Picture] = []
    while len(found) < count:
        obj = rng.choices(range(len(OBJECTS)), shares)[0]
        colour = rng.randrange(len(COLOURS)) if list(OBJECTS)[obj] in COLOURED else -1
        size = rng.choices(range(3), (0.3, 0.4, 0.3))[0]
        position = rng.randrange(3) if SIZES[size] != "large" else POSITIONS.index("middle")
        item = Picture(obj, colour, rng.randrange(len(BACKGROUNDS)), size, position)
        if visible(item.colour, item.background):
            found.append(item)
    return found


def render(path: Path, icons: dict[str, str], count: int = COUNT, workers: int = 1) -> None:
    """Writes all pictures of `pictures(count)` to `path`: uint8, [count, 128, 128, 3]."""
    out = open_memmap(path, "w+", np.uint8, (count, SIZE, SIZE, 3))
    items = list(enumerate(pictures(count)))
    with multiprocessing.Pool(workers, _prepare, (icons,)) as pool:
        for row, pixels in enumerate(pool.imap(_render_one, items, chunksize=64)):
            out[row] = pixels
    out.flush()


_icons: dict[str, str] = {}


def _prepare(icons: dict[str, str]) -> None:
    _icons.update(icons)


def _render_one(numbered: tuple[int, Picture]) -> np.ndarray:
    seed, item = numbered
    return draw(item, _icons, random.Random(seed))


def draw(item: Picture, icons: dict[str, str], rng: random.Random) -> np.ndarray:
    """One picture of `item`, uint8 [128, 128, 3]; `rng` decides what the caption does not name."""
    background = BACKGROUNDS[item.background]
    image = background.draw(rng)
    pixels, aside = PIXELS[SIZES[item.size]]
    left = (SIZE - pixels) / 2 + aside * (item.position - 1) + rng.uniform(-SHIFT, SHIFT)
    top = (GROUND if background.ground else (SIZE + pixels) / 2) - pixels + rng.uniform(-SHIFT, SHIFT)
    turned = sprite(icons, item.object, item.colour, 2 * pixels).rotate(
        rng.uniform(-ANGLE, ANGLE), Image.Resampling.BICUBIC
    )
    layer = Image.new("RGBA", (2 * SIZE, 2 * SIZE))
    layer.paste(turned, (round(2 * left), round(2 * top)))
    layer = layer.reduce(2)
    image.paste(layer, (0, 0), layer)
    return np.asarray(image)


def labels(items: Sequence[Picture]) -> np.ndarray:
    """What a judge should say: object, background, colour (-1: has none) and position, int64 [pictures, 4]."""
    return np.array([[item.object, item.background, item.colour, item.position] for item in items])
