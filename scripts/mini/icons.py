"""The emoji: where they come from, their colour variants, and their pictures."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import resvg_py
from PIL import Image

from mini.words import COLOURS, OBJECTS

ICON_PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"
# colour -> its main, darker and lighter tone
TONES = {
    "red": ("#f8312f", "#ca0b4a", "#ff8687"),
    "yellow": ("#fcd53f", "#f0a020", "#fff09a"),
    "blue": ("#2f7bf8", "#1c45b8", "#8fbcff"),
    "purple": ("#9b4fe0", "#6a2bb0", "#cfa4f7"),
}
# object -> its colours in the original that stand for the main, darker and lighter tone
DYED = {
    "tulip": ("#ff6dc6", "#f70a8d", ""),
    "mushroom": ("#f8312f", "", "#fbb8ab"),
    "apple": ("#f8312f", "", ""),
    "balloon": ("#f8312f", "#ca0b4a", "#ff8687"),
    "car": ("#f8312f", "#ca0b4a", ""),
    "fish": ("#00a6ed", "#0074ba", ""),
}


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


def sprite(icons: dict[str, str], obj: int, colour: int, pixels: int) -> Image.Image:
    """The object in its colour, RGBA [pixels, pixels]."""
    noun, icon = list(OBJECTS.items())[obj]
    return _raster(dyed(icons[icon], noun, colour), pixels)


def dyed(body: str, noun: str, colour: int) -> str:
    """The SVG body with the tones of `COLOURS[colour]`; unchanged for -1."""
    if colour < 0:
        return body
    tones = {old: new for old, new in zip(DYED[noun], TONES[COLOURS[colour]], strict=True) if old}
    return re.sub("#[0-9a-fA-F]{6}", lambda found: tones.get(found[0].lower(), found[0]), body)


@cache
def _raster(body: str, pixels: int) -> Image.Image:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{body}</svg>'
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * pixels, height=2 * pixels))
    return Image.open(io.BytesIO(png)).convert("RGBA").reduce(2)
