"""What a file really is, by its first bytes: for messages about files that are not what they should be."""

SNIFFED = 512
"""Bytes that tell."""
_LOAD_AGAIN = "download it again"
_NOT_A_FILE = "download the file itself; a gated model needs its licence accepted and a login"
_CONVERT = (
    "use the safetensors file of the model, or convert it: ditq reads no pickles, since they can run code"
)
_UNPACK = "unpack it first"
_STARTS: dict[bytes, tuple[str, str | None]] = {
    b"version https://git-lfs": (
        "a Git LFS pointer",
        "run git lfs pull in its folder, or download the file itself",
    ),
    b"{\\rtf": ("an RTF document", "save it as plain text (in TextEdit: Format, Make Plain Text)"),
    b"GGUF": ("a GGUF file", "use the safetensors file of the model"),
    b"\x93NUMPY": ("a single npy array", None),
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\0": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x89HDF": ("an HDF5 file", None),
    b"\x89PNG": ("a PNG picture", None),
    b"\xff\xd8\xff": ("a JPEG picture", None),
    b"GIF8": ("a GIF picture", None),
    b"%PDF": ("a PDF document", None),
    b"\0\x05\x16\x07": ("what macOS keeps beside a file (AppleDouble)", "name the file itself, without ._"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
}


def kind_of(start: bytes) -> tuple[str, str | None] | None:
    """What a file that begins with these bytes is, and what to do about it; None where they do not tell."""
    if not start:
        return "an empty file", _LOAD_AGAIN
    for signature, found in _STARTS.items():
        if start.startswith(signature):
            return found
    if start.startswith(b"PK\x03\x04"):
        return _zip(start)
    if start[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[2:3] in b"\x8a}]c(\x95K":
        return "a Python pickle, as PyTorch writes", _CONVERT
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "an HTML page", _NOT_A_FILE
    if text.startswith(b"<?xml"):
        return "an XML text", _NOT_A_FILE
    if text.startswith((b'{"', b"{\n", b"{\r", b'[{"')):
        return "a JSON text", None
    if int.from_bytes(start[:8], "little") < 100_000_000 and start[8:9] == b"{":
        return "a safetensors file", None
    if len(start) == SNIFFED and not start.strip(b"\0"):
        return "a file of zeros", f"{_LOAD_AGAIN}: it was never filled"
    return None


def _zip(start: bytes) -> tuple[str, str | None]:
    first = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    if first.endswith(b".npy"):
        return "an npz archive", None
    if b"/data.pkl" in first or b"/byteorder" in first or b"/version" in first:
        return "a PyTorch checkpoint (a zip of pickles)", _CONVERT
    return "a zip archive", _UNPACK
