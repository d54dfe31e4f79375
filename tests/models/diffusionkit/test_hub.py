"""Where files are found, and what is told when they are not."""

import logging
import socket
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import errors

from ditq.core.errors import UserError
from ditq.models import load
from ditq.models.diffusionkit.download import downloaded
from ditq.models.diffusionkit.hub import CHECKPOINTS, TEXT, Files
from tests.models.stored import write_stored


def fetching(name: str, fetch) -> Files:
    return Files(name, download=partial(downloaded, fetch=fetch))


def refusing(error: Exception):
    def fetch(repo: str, file: str, local_files_only: bool = False) -> str:
        raise error

    return fetch


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
        fetching("sd3.5-medium", refusing(error())).transformer()
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

    def fetch(repo: str, file: str, local_files_only: bool = False) -> str:
        asked.append(file)
        raise errors.GatedRepoError("403", response=response(403))

    model = load("sd3.5-large")
    model.files = fetching("sd3.5-large", fetch)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="gated"):
        model.encode(["a fox"])
    assert asked == ["sd3.5_large.safetensors"]


def test_downloads_ask_for_the_known_files():
    asked: list[tuple[str, str]] = []

    def fetch(repo: str, file: str, local_files_only: bool = False) -> str:
        asked.append((repo, file))
        return f"/cache/{file}"

    files = fetching("sd3-medium", fetch)
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
    vae = {"first_stage_model.decoder.a": np.zeros(1, np.float32)}
    write_stored(tmp_path / CHECKPOINTS["sd3.5-large"].file, vae)
    assert files.transformer() == files.vae() == tmp_path / "sd3.5_large.safetensors"


def test_a_folder_without_the_files_names_what_was_looked_for(tmp_path):
    with pytest.raises(
        UserError, match=r"got none of sd3_medium\.safetensors, .*, transformer; .* give a folder that holds"
    ):
        Files("sd3-medium", tmp_path).transformer()
    with pytest.raises(UserError, match="got no such file or folder"):
        Files("sd3-medium", tmp_path / "nowhere").vae()


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The real library, with an empty cache and permission to connect."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return partial(monkeypatch.setattr, constants, "ENDPOINT")


def test_without_a_network_it_is_told_at_once_and_quietly(online, caplog, capfd):
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{closed.getsockname()[1]}")
        started = time.perf_counter()
        with pytest.raises(
            UserError, match="got no sd3_medium.safetensors on this disk, and no connection to the Hub"
        ):
            Files("sd3-medium").transformer()
    assert time.perf_counter() - started < 3
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_a_network_that_swallows_packets_is_not_waited_for(online):
    with socket.socket() as full:  # a backlog of none that is full: further connections hang
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        online(f"http://127.0.0.1:{full.getsockname()[1]}")
        started = time.perf_counter()
        with pytest.raises(UserError, match="no connection to the Hub"):
            downloaded("a/b", "c.safetensors", "sd3-medium", patience=0.2)
        assert time.perf_counter() - started < 3
        for one in waiting:
            one.close()


def test_a_cached_file_is_used_without_asking_the_hub(online):
    def fetch(repo: str, file: str, local_files_only: bool = False) -> str:
        assert local_files_only
        return "/cache/c.safetensors"

    assert downloaded("a/b", "c.safetensors", "sd3-medium", fetch) == Path("/cache/c.safetensors")


def test_the_librarys_own_lines_are_shown_again_afterwards(online):
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    with pytest.raises(UserError):
        downloaded("a/b", "c", "sd3-medium", refusing(OSError("x")))
    assert logger.level == before


def test_the_file_itself_may_be_given(tmp_path):
    weights = {"joint_blocks.0.a": np.zeros(1, np.float32)}
    path = write_stored(tmp_path / "my model.safetensors", weights)
    files = Files("sd3-medium", path)
    assert files.transformer() == path
    with pytest.raises(
        UserError, match=r"my model\.safetensors: got a file without a VAE.*give a folder that holds"
    ):
        files.vae()
    with pytest.raises(
        UserError, match=r"got none of clip_l/config\.json.*; give a folder that holds sd3_medium"
    ):
        files.text("clip_l_config")
    (tmp_path / "vae").mkdir()
    (tmp_path / "clip_l.safetensors").write_bytes(b"")
    assert files.vae() == tmp_path / "vae" and files.text("clip_l") == tmp_path / "clip_l.safetensors"
    write_stored(path, weights | {"first_stage_model.decoder.a": np.zeros(1, np.float32)})
    assert files.vae() == path


def test_a_repository_of_the_hubs_cache_may_be_given(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (snapshot / "sd3_medium.safetensors").write_bytes(b"")
    files = Files("sd3-medium", tmp_path / "models--a--b")
    assert files.transformer() == snapshot / "sd3_medium.safetensors"


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="got sd4; expected mini or sd3-medium"):
        load("sd4")
    with pytest.raises(UserError, match="text encoders: got t5; expected all or clip"):
        load("sd3-medium", text_encoders="t5")
