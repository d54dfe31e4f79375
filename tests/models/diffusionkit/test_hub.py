"""Where files are found, and what is told when they are not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from ditq.core.errors import UserError
from ditq.models import load
from ditq.models.diffusionkit.hub import CHECKPOINTS, TEXT, Files


def refusing(error: Exception):
    def download(repo: str, file: str) -> str:
        raise error

    return download


def response(status: int) -> Any:
    """What huggingface_hub's errors look at, whichever HTTP library it uses."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


CASES = {
    "gated": (
        lambda: errors.GatedRepoError("403", response=response(403)),
        "gated files, to which this account has no access",
    ),
    "unknown": (
        lambda: errors.RepositoryNotFoundError("401", response=response(401)),
        "no such repository that this login",
    ),
    "offline": (lambda: errors.LocalEntryNotFoundError("no connection"), "no connection to the Hub"),
    "switched off": (
        lambda: errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set\nmore"),
        "HF_HUB_OFFLINE is set)",
    ),
    "renamed": (
        lambda: errors.RemoteEntryNotFoundError("404", response=response(404)),
        "a repository without sd3.5_medium",
    ),
    "server": (
        lambda: errors.HfHubHTTPError("503 Busy", response=response(503)),
        "a failed download of sd3.5_medium.safetensors (503 Busy",
    ),
    "disk": (lambda: OSError(28, "No space left on device"), "No space left on device"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_downloaded_is_told_in_one_paragraph(case):
    error, cause = CASES[case]
    with pytest.raises(UserError) as caught:
        Files("sd3.5-medium", download=refusing(error())).transformer()
    told = str(caught.value)
    assert told.startswith("sd3.5-medium: got ") and cause in told and "\n" not in told
    assert "https://huggingface.co/stabilityai/stable-diffusion-3.5-medium" in told
    for needed in (
        "accept its licence",
        "hf auth login",
        "HF_TOKEN",
        "--model-path",
        "`--model mini` needs no account",
    ):
        assert needed in told


def test_the_real_library_offline_gives_the_same_paragraph(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = load("sd3-medium")
    with pytest.raises(UserError, match="no connection to the Hub.*sd3_medium.safetensors.*hf auth login"):
        model.encode(["a fox"])


def test_a_gated_model_is_told_of_before_the_text_encoders_are_downloaded():
    asked: list[str] = []

    def download(repo: str, file: str) -> str:
        asked.append(file)
        raise errors.GatedRepoError("403", response=response(403))

    model = load("sd3.5-large")
    model.files = Files("sd3.5-large", download=download)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="gated"):
        model.encode(["a fox"])
    assert asked == ["sd3.5_large.safetensors"]


def test_downloads_ask_for_the_known_files():
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return f"/cache/{file}"

    files = Files("sd3-medium", download=download)
    assert files.transformer() == files.vae() == Path("/cache/sd3_medium.safetensors")
    assert files.text("t5") == Path("/cache/t5/t5xxl.safetensors")
    assert asked[0] == ("argmaxinc/mlx-stable-diffusion-3-medium", "sd3_medium.safetensors")
    assert asked[2] == ("argmaxinc/stable-diffusion", "t5/t5xxl.safetensors")


@pytest.mark.parametrize("part", TEXT)
def test_every_local_name_is_found(tmp_path, part):
    source = TEXT[part]
    for i, name in enumerate((source.file, *source.local)):
        path = tmp_path / str(i) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert Files("sd3-medium", tmp_path / str(i)).text(part) == path


def test_diffusers_folders_are_found_but_a_single_file_comes_first(tmp_path):
    files = Files("sd3.5-large", tmp_path)
    for name in ("transformer", "vae"):
        (tmp_path / name).mkdir()
    assert (files.transformer(), files.vae()) == (tmp_path / "transformer", tmp_path / "vae")
    (tmp_path / CHECKPOINTS["sd3.5-large"].file).write_bytes(b"")
    assert files.transformer() == files.vae() == tmp_path / "sd3.5_large.safetensors"


def test_a_folder_without_the_files_names_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"got none of sd3_medium\.safetensors, transformer"):
        Files("sd3-medium", tmp_path).transformer()
    with pytest.raises(UserError, match="got no such folder"):
        Files("sd3-medium", tmp_path / "nowhere").vae()


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="got sd4; expected mini or sd3-medium"):
        load("sd4")
    with pytest.raises(UserError, match="text encoders: got t5; expected all or clip"):
        load("sd3-medium", text_encoders="t5")
