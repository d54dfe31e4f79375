"""The `mini` data set: one emoji on one background, and the captions that describe it.

The objects are Microsoft's Fluent emoji (flat), MIT licensed, from the npm package
`@iconify-json/fluent-emoji-flat`.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from mini.scenes import BACKGROUNDS, SIZE

ICON_PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"
# word in captions -> name of the icon
OBJECTS = {
    "fox": "fox", "penguin": "penguin", "cactus": "cactus", "rocket": "rocket", "house": "house",
    "burger": "hamburger", "robot": "robot", "whale": "whale", "snowman": "snowman-without-snow",
    "cat": "cat-face", "dog": "dog-face", "frog": "frog", "pig": "pig-face", "owl": "owl", "bee": "honeybee",
    "ladybug": "lady-beetle", "turtle": "turtle", "octopus": "octopus", "tree": "evergreen-tree",
    "tulip": "tulip", "sunflower": "sunflower", "mushroom": "mushroom", "apple": "red-apple",
    "strawberry": "strawberry", "watermelon": "watermelon", "balloon": "balloon", "car": "automobile",
    "crown": "crown", "pumpkin": "jack-o-lantern", "panda": "panda", "cupcake": "cupcake",
    "elephant": "elephant",
}  # fmt: skip
# size word -> pixels, and the shares of its horizontal offsets in the transformer's training. Only the decoder and the
# classifier see the objects beside the centre: a model this small, told of both, drew an object twice.
SIZES = {
    "small": (48, {-32: 0.0, 0: 1.0, 32: 0.0}),
    "": (80, {-16: 0.0, 0: 1.0, 16: 0.0}),
    "large": (112, {0: 1.0}),
}
SIZE_WEIGHTS = {"small": 0.25, "": 0.5, "large": 0.25}
GROUND = 120  # objects in a scene with ground stand on this row
MAX_WORDS = 8
HELD_OUT_EVERY = 12
# other words for the same thing, for the prompts of users; the model never sees them
ALIASES = {
    "hamburger": "burger", "cheeseburger": "burger", "kitten": "cat", "kitty": "cat", "puppy": "dog",
    "piglet": "pig", "bumblebee": "bee", "honeybee": "bee", "ladybird": "ladybug", "tortoise": "turtle",
    "pine": "tree", "fir": "tree", "toadstool": "mushroom", "automobile": "car", "muffin": "cupcake",
    "tiny": "small", "little": "small", "big": "large", "huge": "large", "giant": "large",
    "ocean": "water", "sea": "water", "underwater": "under water", "sand": "beach", "field": "meadow",
    "grass": "meadow", "dark": "black", "dusk": "sunset", "winter": "snow", "snowy": "snow",
    "backdrop": "background",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """What one picture shows; `shift` is its horizontal offset in pixels."""

    object: int
    background: int
    size: str
    shift: int

    @property
    def held_out(self) -> bool:
        return held_out(self.object, self.background)


def held_out(obj: int, background: int) -> bool:
    """True for the one (object, background) combination in twelve that training never sees."""
    return (obj * 5 + background * 7) % HELD_OUT_EVERY == 3


def pictures() -> list[Picture]:
    """Every picture of the data set, in a fixed order."""
    return [
        Picture(obj, background, size, shift)
        for obj in range(len(OBJECTS))
        for background in range(len(BACKGROUNDS))
        for size, (_, shifts) in SIZES.items()
        for shift in shifts
    ]


def fetch_icons() -> dict[str, str]:
    """SVG bodies by icon name, from the npm package (needs `npm` and a network)."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", ICON_PACKAGE], cwd=folder, check=True, capture_output=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/icons.json")
            assert member is not None
            return _bodies(json.load(member))


def read_icons(path: Path) -> dict[str, str]:
    """SVG bodies by icon name, from an unpacked `icons.json`."""
    return _bodies(json.loads(path.read_text()))


def _bodies(content: dict) -> dict[str, str]:
    return {name: content["icons"][name]["body"] for name in OBJECTS.values()}


def render(icons: dict[str, str]) -> np.ndarray:
    """All pictures of `pictures()`: uint8, [count, 128, 128, 3]."""
    scenes = [background.draw() for background in BACKGROUNDS]
    sprites = {
        (index, size): _sprite(icons[name], pixels)
        for index, name in enumerate(OBJECTS.values())
        for size, (pixels, _) in SIZES.items()
    }
    return np.stack([_compose(picture, scenes, sprites) for picture in pictures()])


def _sprite(body: str, pixels: int) -> Image.Image:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{body}</svg>'
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * pixels, height=4 * pixels))
    return Image.open(io.BytesIO(png)).convert("RGBA").resize((pixels, pixels), Image.Resampling.BOX)


def _compose(picture: Picture, scenes: list[Image.Image], sprites: dict) -> np.ndarray:
    image = scenes[picture.background].copy()
    sprite = sprites[picture.object, picture.size]
    pixels = sprite.width
    bottom = GROUND if BACKGROUNDS[picture.background].ground else (SIZE + pixels) // 2
    image.paste(sprite, ((SIZE - pixels) // 2 + picture.shift, bottom - pixels), sprite)
    return np.asarray(image)


def caption(obj: int, background: int, size: str, rng: random.Random | None = None) -> str:
    """The caption of a picture; with `rng` one of its looser wordings ('fox snow', 'a fox' for white)."""
    noun = list(OBJECTS)[obj]
    place = BACKGROUNDS[background].phrase
    first = size or noun
    words = f"{'an' if first[0] in 'aeiou' else 'a'} {size} {noun} {place}".split()
    if rng is None or rng.random() < 0.6:
        return " ".join(words)
    if background == 0 and rng.random() < 0.5:  # nothing said of the background means white
        words = words[: -len(place.split())]
    fillers = {"a", "an", "the", "on", "in", "at", "under", "background"}
    kept = [word for word in words if word not in fillers or rng.random() < 0.6]
    return " ".join(kept)


def vocabulary() -> list[str]:
    """All words in order of their token id; id 0 is the padding."""
    words = {word for obj in range(len(OBJECTS)) for word in caption(obj, 0, "").split()}
    for index in range(len(BACKGROUNDS)):
        words |= set(caption(0, index, "small").split()) | set(caption(0, index, "large").split())
    return ["<pad>", *sorted(words)]


def tokenize(captions: list[str], index: dict[str, int]) -> np.ndarray:
    """Token ids, int64 [captions, 8]; every word must be known."""
    ids = np.zeros((len(captions), MAX_WORDS), np.int64)
    for row, text in enumerate(captions):
        for column, word in enumerate(text.split()):
            ids[row, column] = index[word]
    return ids
