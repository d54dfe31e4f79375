"""Text is UTF-8 with its mark taken off; JSON is as strict as its standard."""

import pytest

from ditq.core.errors import UserError
from ditq.core.files import read_json, read_text
from ditq.core.files.text import DEEPEST


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf# prompts\r\na fox\rtwo\n")
    assert read_text(tmp_path / "a.txt") == "# prompts\na fox\ntwo\n"
    (tmp_path / "both.txt").write_bytes(b"\xef\xbb\xbf\xef\xbb\xbfa fox\r\n\xef\xbb\xbf# more\n")
    assert read_text(tmp_path / "both.txt") == "a fox\n# more\n"
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "none.txt").write_bytes(b"")
    assert read_text(tmp_path / "none.txt") == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a fox\na caf\xe9\n", "line 2 holds the byte 0xe9; save it as UTF-8"),
        ("a fox".encode("utf-16"), "got UTF-16 text; expected .*; save it as UTF-8"),
        (b"a\0b", "it is not text"),
        (rb"{\rtf1\ansi a fox}", "got an RTF document; .*save it as plain text"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a Python pickle, as PyTorch writes"),
    ],
)
def test_what_is_no_text_is_told(tmp_path, content, says):
    (tmp_path / "a.txt").write_bytes(content)
    for read in (read_text, read_json):
        with pytest.raises(UserError, match=f"a.txt: .*{says}"):
            read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": NaN}', "NaN, which JSON has not"),
        ('{"a": [-Infinity]}', "-Infinity, which JSON has not"),
        ('{"a": 1e999}', "1e999, a number that is too large"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
        ("[" * 100_000, "it is nested too deeply"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), f"it is nested more than {DEEPEST} deep"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"a": 1', "line 1 column 8"),
        ("1" * 5000, "cannot be read"),
        ("", "an empty file"),
        ("<!DOCTYPE html><html>", "an HTML page"),
    ],
)
def test_what_is_no_json_is_told(tmp_path, content, says):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=f"a.json: got .*{says}"):
        read_json(tmp_path / "a.json")


def test_json_that_is_right(tmp_path):
    content = "[" * DEEPEST + "]" * DEEPEST
    (tmp_path / "a.json").write_text(content)
    read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": "\\ud83e\\udd8a", "b": 1e308}')
    assert read_json(tmp_path / "a.json") == {"a": "\N{FOX FACE}", "b": 1e308}
