"""Names from files lead nowhere else, and what is hidden or unfinished is in no list."""

import pytest

from ditq.core.errors import UserError
from ditq.core.files import inside, listed


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("../a.npz", "the path '../a.npz'"),
        ("/etc/passwd", "the path '/etc/passwd'"),
        ("a/b", "the path 'a/b'"),
        ("a\\b", "the path .*"),
        ("..", "'..'"),
        (".", "'.'"),
        ("", "''"),
        (" a", "' a'"),
        ("a\0b", "characters that no name should"),
        ("a\nb", "characters that no name should"),
        ("a\udce9", "characters that no name should"),
        ("x" * 241, "a name of 241 bytes, 'xxx.*\\.\\.\\.'"),
        (None, "a NoneType, not a name"),
        (3, "a int, not a name"),
        (["a"], "a list, not a name"),
    ],
)
def test_what_is_no_plain_name_is_refused(tmp_path, name, got):
    with pytest.raises(
        UserError, match=f"index.json: weight_map: got .*{got}; expected the plain name of a file"
    ):
        inside(tmp_path, name, "index.json: weight_map")


def test_plain_names_are_in_their_folder(tmp_path):
    for name in (
        "model-00001-of-00002.safetensors",
        "mm_00_img.mlp.fc1.png",
        "ein Bär.npz",
        "x" * 240,
        "..a",
    ):
        assert inside(tmp_path, name, "f") == tmp_path / name


def test_hidden_and_unfinished_files_are_not_listed(tmp_path):
    whole = ["b.safetensors", "a.safetensors"]
    others = [
        "._a.safetensors",
        ".ditq-partial-1-a-x.safetensors",
        "a.safetensors.part",
        "b.safetensors.crdownload",
    ]
    for name in whole + others:
        (tmp_path / name).touch()
    (tmp_path / "folder.safetensors").mkdir()
    assert listed(tmp_path, "*.safetensors") == [tmp_path / name for name in sorted(whole)]
    assert listed(tmp_path, "*.safetensors*") == [tmp_path / name for name in sorted(whole)]
    assert listed(tmp_path / "none", "*") == []
