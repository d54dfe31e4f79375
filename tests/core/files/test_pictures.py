"""Pictures of bounded size, whole, and of formats that people have."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ditq.core.errors import UserError
from ditq.core.files import read_image, write_png


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG that says it is that large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))


@pytest.mark.parametrize("size", [(8193, 8192), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(*size))
    with pytest.raises(UserError, match=r"a.png: .*more than 8192 x 8192"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [5, 20, 40, 60, 200, -60])
def test_a_picture_that_is_cut_off_is_told(tmp_path, kept):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", picture, {"prompt": "a fox"})
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:kept])
    with pytest.raises(UserError, match="a.png: got a file that cannot be read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_are_read(tmp_path, kind):
    Image.fromarray(np.full((4, 6, 3), 128, np.uint8)).save(tmp_path / "a", format=kind)
    assert read_image(tmp_path / "a")[0].shape == (4, 6, 3)


def test_what_would_run_a_program_is_not_opened(tmp_path):
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(UserError, match="a.eps: got a file that cannot be read"):
        read_image(tmp_path / "a.eps")
