"""The fifteen backgrounds of the `mini` data set: eight plain colours and seven drawn scenes.

No two pictures of a background are alike: hue, brightness and the places of hills, clouds, stars and bubbles are drawn
from a random number generator. The sun of a scene, its moon or its cloud keeps to one corner, up to 34 pixels aside:
free to be anywhere, a small model draws it twice. Coordinates are in pixels of the 128 x 128 picture; drawing happens
four times as large and is reduced after.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
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

    def hill(self, peak: float, top: float, colour: str) -> None:
        """Ground whose highest point is at (`peak`, `top`)."""
        self.disc(peak, top + 78, 78, colour, stretch=1.7)

    def dots(self, rng: Random, places: list[tuple[float, float]], radius: float, colour: str) -> None:
        """Discs near `places`, each up to 7 pixels aside."""
        for x, y in places:
            self.disc(x + rng.uniform(-7, 7), y + rng.uniform(-7, 7), radius, colour)

    def done(self) -> Image.Image:
        return self.image.reduce(_SCALE)


def _snow(rng: Random) -> Image.Image:
    canvas = Canvas("#8fc3ee")
    canvas.hill(rng.uniform(0, 50), rng.uniform(78, 94), "#dcecfa")
    canvas.hill(rng.uniform(78, 128), rng.uniform(88, 100), "#f3f8ff")
    canvas.dots(rng, [(18, 14), (46, 26), (82, 14), (110, 30), (14, 54), (112, 62)], 3, "#ffffff")
    return canvas.done()


def _beach(rng: Random) -> Image.Image:
    canvas = Canvas("#86d7f7")
    canvas.disc(rng.uniform(16, 42), rng.uniform(15, 25), 11, "#ffe14d")
    horizon, shore = rng.uniform(50, 66), rng.uniform(84, 94)
    canvas.band(horizon, shore, "#2492d1")
    canvas.band(shore, SIZE, "#f5da94")
    return canvas.done()


def _night(rng: Random) -> Image.Image:
    canvas = Canvas("#1a2150")
    x, y = rng.uniform(86, 112), rng.uniform(17, 26)
    canvas.disc(x, y, 12, "#fff3b8")
    canvas.disc(x - 6, y - 4, 11, "#1a2150")
    canvas.dots(rng, [(14, 46), (64, 44), (112, 48), (12, 76), (116, 76)], 2.2, "#ffffff")
    canvas.hill(rng.uniform(20, 108), rng.uniform(92, 104), "#31427a")
    return canvas.done()


def _meadow(rng: Random) -> Image.Image:
    canvas = Canvas("#a9e1ff")
    x, y = rng.uniform(20, 54), rng.uniform(15, 25)
    for aside, up, radius in [(-10, 0, 7), (0, -3, 9), (10, 0, 7)]:
        canvas.disc(x + aside, y + up, radius, "#ffffff")
    canvas.hill(rng.uniform(0, 50), rng.uniform(80, 94), "#5fb53c")
    canvas.hill(rng.uniform(78, 128), rng.uniform(88, 100), "#7fcf4b")
    canvas.dots(rng, [(14, 116), (114, 116)], 3, "#ff6fa8")
    return canvas.done()


def _desert(rng: Random) -> Image.Image:
    canvas = Canvas("#ffe2ad")
    canvas.disc(rng.uniform(86, 112), rng.uniform(16, 26), 12, "#ff9d3c")
    canvas.hill(rng.uniform(78, 128), rng.uniform(72, 90), "#d9974b")
    canvas.hill(rng.uniform(0, 50), rng.uniform(88, 100), "#ecb568")
    return canvas.done()


def _under_water(rng: Random) -> Image.Image:
    canvas = Canvas("#2fa0dc")
    canvas.band(rng.uniform(34, 52), SIZE, "#2188c9")
    canvas.band(rng.uniform(76, 92), SIZE, "#1670b0")
    canvas.hill(rng.uniform(20, 108), rng.uniform(106, 116), "#d8c58c")
    canvas.dots(rng, [(14, 20), (114, 26), (16, 62), (112, 70)], 3.5, "#a6defa")
    return canvas.done()


def _sunset(rng: Random) -> Image.Image:
    canvas = Canvas("#8c4a9c")
    edges = [24, 48, 70]
    for edge, colour in zip(edges, ("#c9527f", "#e9745b", "#f6a860"), strict=True):
        canvas.band(edge + rng.uniform(-5, 5), SIZE, colour)
    canvas.disc(rng.uniform(16, 42), rng.uniform(30, 42), 13, "#fff0b8")
    canvas.hill(rng.uniform(0, 128), rng.uniform(88, 100), "#4a2f66")
    return canvas.done()


def _mood(image: Image.Image, rng: Random) -> Image.Image:
    """The scene in another light: hue turned by up to 14 degrees, brightness 70 to 112 %, colour 80 to 110 %."""
    angle, light, colour = rng.uniform(-14, 14), rng.uniform(0.7, 1.12), rng.uniform(0.8, 1.1)
    matrix = light * _hue_matrix(math.radians(angle), colour)
    pixels = np.asarray(image, np.float32) @ matrix.T
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _hue_matrix(angle: float, colour: float) -> np.ndarray:
    """Rotation of RGB about the grey axis, with the distance from the axis times `colour`; float32 [3, 3]."""
    third, cosine, sine = np.full((3, 3), 1 / 3), math.cos(angle), math.sin(angle) / math.sqrt(3)
    turn = np.array([[0, -sine, sine], [sine, 0, -sine], [-sine, sine, 0]])
    return (third + colour * (cosine * (np.eye(3) - third) + turn)).astype(np.float32)


@dataclass(frozen=True)
class Background:
    """A background: `name` for tables, `phrase` in captions, `ground` if objects stand at the bottom."""

    name: str
    phrase: str
    ground: bool
    paint: Callable[[Random], Image.Image]

    def draw(self, rng: Random) -> Image.Image:
        """One of its pictures, 128 x 128."""
        return self.paint(rng)


def _scene(name: str, phrase: str, ground: bool, paint: Callable[[Random], Image.Image]) -> Background:
    return Background(name, phrase, ground, lambda rng: _mood(paint(rng), rng))


def _plain(name: str, hue: float, saturation: float, darkest: float, brightest: float) -> Background:
    """One colour, lit from a random side: `hue` in degrees, 6 degrees either way; its value in the given range."""

    def paint(rng: Random) -> Image.Image:
        turned = ((hue + rng.uniform(-6, 6)) % 360) / 360
        colour = colorsys.hsv_to_rgb(
            turned, saturation * rng.uniform(0.85, 1), rng.uniform(darkest, brightest)
        )
        side, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.22)
        axis = np.linspace(-0.5, 0.5, SIZE)
        light = 1 - strength * (0.5 + math.cos(side) * axis[None, :] + math.sin(side) * axis[:, None])
        pixels = 255 * light[..., None] * np.array(colour)
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    return Background(name, f"on a{'n' * (name[0] in 'aeiou')} {name} background", False, paint)


BACKGROUNDS = (
    _plain("white", 210, 0.03, 0.9, 1.0),
    _plain("grey", 220, 0.06, 0.5, 0.68),
    _plain("black", 240, 0.25, 0.06, 0.24),
    _plain("blue", 220, 0.68, 0.65, 0.95),
    _plain("green", 132, 0.6, 0.55, 0.8),
    _plain("yellow", 52, 0.72, 0.85, 1.0),
    _plain("orange", 24, 0.74, 0.8, 1.0),
    _plain("pink", 338, 0.38, 0.85, 1.0),
    _scene("snow", "in the snow", True, _snow),
    _scene("beach", "at the beach", True, _beach),
    _scene("night", "at night", True, _night),
    _scene("meadow", "in a meadow", True, _meadow),
    _scene("desert", "in the desert", True, _desert),
    _scene("water", "under water", False, _under_water),
    _scene("sunset", "at sunset", True, _sunset),
)
