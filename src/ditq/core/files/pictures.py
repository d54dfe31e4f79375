"""Pictures: of bounded size, complete, and of the formats that people have."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ditq.core.files.reading import reading

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
LARGEST = 8192 * 8192
"""Pixels at most: 200 MB in memory."""


def read_image(path: str | Path) -> tuple[np.ndarray, dict[str, str]]:
    """A picture as uint8 (height, width, 3), and its text metadata."""
    return reading(path, _read, "a picture", right=("a PNG picture", "a JPEG picture", "a GIF picture"))


def _read(file: BinaryIO) -> tuple[np.ndarray, dict[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's advice on size and on parts that it skips
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"{image.width} x {image.height} pixels, more than 8192 x 8192")
                text = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
                return np.asarray(image.convert("RGB")), text
        except Image.DecompressionBombError as error:
            raise ValueError("more than 8192 x 8192 pixels") from error
