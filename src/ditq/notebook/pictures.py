"""Pictures as a notebook shows them."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ditq.core.files import write_png
from ditq.notebook.arguments import checked_arguments

SHOWN = 128
"""Width of a picture in a notebook, in pixels."""


class Pictures(Sequence[Image.Image]):
    """Pictures and what each shows: a sequence of PIL images that a notebook draws side by side."""

    def __init__(self, pictures: UInt8[np.ndarray, "pictures height width 3"], captions: Sequence[str]):
        self.arrays, self.captions = pictures, list(captions)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index):
        """One picture, or some of them as `Pictures`."""
        if isinstance(index, slice):
            return Pictures(self.arrays[index], self.captions[index])
        return Image.fromarray(self.arrays[index])

    def __iter__(self) -> Iterator[Image.Image]:
        return (Image.fromarray(array) for array in self.arrays)

    @checked_arguments()
    def save(self, folder: str | Path) -> list[Path]:
        """Writes each picture as a PNG, 0000.png and on, and returns their paths."""
        paths = [Path(folder) / f"{number:04d}.png" for number in range(len(self))]
        for path, array, caption in zip(paths, self.arrays, self.captions, strict=True):
            write_png(path, array, {"prompt": caption})
        return paths

    def __repr__(self) -> str:
        count, height, width, _ = self.arrays.shape
        return (
            f"{count} picture{'s' * (count != 1)} of {width}x{height}: {', '.join(map(repr, self.captions))}"
        )

    def _repr_html_(self) -> str:
        return row(zip(self.arrays, self.captions, strict=True))


def row(pictures) -> str:
    """(picture, caption) pairs side by side as HTML, nothing but the page itself needed."""
    cells = [
        f'<figure style="display:inline-block;margin:4px;width:{SHOWN}px;vertical-align:top">'
        f'<img width="{SHOWN}" alt="{html.escape(caption, quote=True)}" src="{data_url(picture)}">'
        f'<figcaption style="font-size:11px">{html.escape(caption)}</figcaption></figure>'
        for picture, caption in pictures
    ]
    return f"<div>{''.join(cells)}</div>"


def data_url(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """The picture as a PNG inside a URL."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the heading first, as an HTML table; all but the first column to the right."""

    def cells(texts: Sequence[str], tag: str) -> str:
        aligned = ("left", *["right"] * (len(texts) - 1))
        pairs = zip(texts, aligned, strict=True)
        return "".join(
            f'<{tag} style="text-align:{side}">{html.escape(text)}</{tag}>' for text, side in pairs
        )

    heading, *body = rows
    lines = "".join(f"<tr>{cells(one, 'td')}</tr>" for one in body)
    return f"<table><thead><tr>{cells(heading, 'th')}</tr></thead><tbody>{lines}</tbody></table>"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """The same rows as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for one in rows:
        first, *others = [
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(one, widths, strict=True))
        ]
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)
