"""The thirteen backgrounds of the `mini` data set: six plain colours and seven drawn scenes.

Every background is one fixed picture: a data set with little entropy is what a few CPU hours can learn well.
Coordinates are in pixels of the 128 x 128 picture; drawing happens four times as large and is reduced after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 128
_SCALE = 4


class Canvas:
    """A supersampled drawing surface; shapes are given in pixels of the final picture."""

    def __init__(self, sky: str) -> None:
        self.image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), sky)
        self._draw = ImageDraw.Draw(self.image)

    def band(self, top: float, bottom: float, colour: str) -> None:
        self._draw.rectangle((0, top * _SCALE, SIZE * _SCALE, bottom * _SCALE - 1), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: str, stretch: float = 1.0) -> None:
        box = (x - radius * stretch, y - radius, x + radius * stretch, y + radius)
        self._draw.ellipse(tuple(value * _SCALE for value in box), fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: str) -> None:
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=colour)

    def done(self) -> Image.Image:
        return self.image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _snow() -> Image.Image:
    canvas = Canvas("#8fc3ee")
    canvas.disc(24, 150, 66, "#dcecfa", stretch=1.6)
    canvas.disc(100, 160, 70, "#f3f8ff", stretch=1.8)
    for x, y in [(10, 12), (34, 26), (60, 8), (88, 20), (114, 10), (16, 48), (112, 44), (8, 74), (120, 72)]:
        canvas.disc(x, y, 2.5, "#ffffff")
    return canvas.done()


def _beach() -> Image.Image:
    canvas = Canvas("#86d7f7")
    canvas.disc(108, 20, 12, "#ffe14d")
    canvas.band(60, 88, "#2492d1")
    canvas.band(84, 90, "#bfeaf5")
    canvas.band(88, SIZE, "#f5da94")
    return canvas.done()


def _night() -> Image.Image:
    canvas = Canvas("#1a2150")
    canvas.disc(106, 22, 13, "#fff3b8")
    canvas.disc(100, 18, 12, "#1a2150")
    for x, y in [(12, 14), (36, 8), (64, 12), (22, 40), (84, 34), (10, 66), (118, 60)]:
        canvas.disc(x, y, 1.8, "#ffffff")
    canvas.disc(64, 190, 90, "#31427a", stretch=1.7)
    return canvas.done()


def _meadow() -> Image.Image:
    canvas = Canvas("#a9e1ff")
    for x, y, radius in [(18, 22, 7), (28, 18, 9), (39, 22, 7)]:
        canvas.disc(x, y, radius, "#ffffff")
    canvas.disc(20, 150, 64, "#5fb53c", stretch=1.6)
    canvas.disc(100, 158, 68, "#7fcf4b", stretch=1.8)
    for x, y, colour in [
        (10, 112, "#ff6fa8"),
        (34, 122, "#ffffff"),
        (94, 121, "#ffffff"),
        (117, 112, "#ff6fa8"),
    ]:
        canvas.disc(x, y, 3, colour)
    return canvas.done()


def _desert() -> Image.Image:
    canvas = Canvas("#ffe2ad")
    canvas.disc(22, 22, 12, "#ff9d3c")
    canvas.disc(96, 150, 72, "#d9974b", stretch=1.5)
    canvas.disc(20, 164, 72, "#ecb568", stretch=1.9)
    return canvas.done()


def _under_water() -> Image.Image:
    canvas = Canvas("#2fa0dc")
    canvas.band(44, 84, "#2188c9")
    canvas.band(84, SIZE, "#1670b0")
    canvas.disc(64, 170, 58, "#d8c58c", stretch=2.2)
    for x in (8, 118):
        canvas.polygon([(x - 4, 128), (x - 6, 92), (x, 104), (x + 5, 84), (x + 4, 128)], "#1f9d6b")
    for x, y, radius in [(14, 18, 4), (20, 34, 2.5), (110, 26, 4), (116, 46, 2.5)]:
        canvas.disc(x, y, radius, "#a6defa")
    return canvas.done()


def _sunset() -> Image.Image:
    canvas = Canvas("#8c4a9c")
    canvas.band(26, 50, "#d9577f")
    canvas.band(50, 72, "#f88a5b")
    canvas.band(72, 92, "#ffc268")
    canvas.disc(64, 92, 26, "#fff0a0")
    canvas.band(92, SIZE, "#4a2f66")
    return canvas.done()


@dataclass(frozen=True)
class Background:
    """A background: `name` for tables, `phrase` in captions, `ground` if objects stand at the bottom."""

    name: str
    phrase: str
    ground: bool
    draw: Callable[[], Image.Image]


def _plain(name: str, colour: str) -> Background:
    return Background(name, f"on a {name} background", False, lambda: Image.new("RGB", (SIZE, SIZE), colour))


BACKGROUNDS = (
    _plain("white", "#ffffff"),
    _plain("blue", "#4a7de0"),
    _plain("green", "#49b45e"),
    _plain("yellow", "#ffd84a"),
    _plain("pink", "#ffa3c7"),
    _plain("black", "#23232b"),
    Background("snow", "in the snow", True, _snow),
    Background("beach", "at the beach", True, _beach),
    Background("night", "at night", True, _night),
    Background("meadow", "in a meadow", True, _meadow),
    Background("desert", "in the desert", True, _desert),
    Background("water", "under water", False, _under_water),
    Background("sunset", "at sunset", True, _sunset),
)
