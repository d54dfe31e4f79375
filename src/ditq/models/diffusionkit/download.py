"""Files from the Hugging Face Hub, and what is told when they cannot be had: one paragraph, at once."""

import logging
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ditq.core.errors import UserError

PATIENCE = 6.0
"""Seconds that a connection may take; the library itself would try for half a minute."""


def downloaded(
    repo: str, file: str, model: str, fetch: Callable[..., str] | None = None, patience: float = PATIENCE
) -> Path:
    """The path of a file of a Hub repository: the copy in the cache, if there is one, else it is downloaded.

    A cached copy is used as it is, so that results do not change when somebody changes the repository. `fetch` stands
    in for `huggingface_hub.hf_hub_download`. Raises UserError, beginning with `model`, for whatever is in the way.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    fetch = fetch or hf_hub_download
    try:
        with _quiet():
            try:
                return Path(fetch(repo, file, local_files_only=True))
            except errors.LocalEntryNotFoundError:
                if constants.is_offline_mode():
                    raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set") from None
                if not _connects(constants.ENDPOINT, patience):
                    raise
            return Path(fetch(repo, file))
    except errors.GatedRepoError as error:
        cause, source = "gated files, to which this account has no access yet", error
    except errors.RepositoryNotFoundError as error:
        cause, source = "no such repository that this login, or none, may see", error
    except errors.LocalEntryNotFoundError as error:
        cause, source = f"no {file} on this disk, and no connection to the Hub", error
    except errors.OfflineModeIsEnabled as error:
        cause, source = f"no {file} on this disk, and no connection to the Hub ({_first_line(error)})", error
    except errors.EntryNotFoundError as error:
        cause, source = f"a repository without {file}", error
    except (*_http_errors(), OSError, ValueError, RuntimeError) as error:
        cause, source = f"a failed download of {file} ({_first_line(error)})", error
    raise _absent(repo, file, model, cause) from source


def _http_errors() -> tuple[type[Exception], ...]:
    """What the library raises for HTTP, and what the HTTP library below it does when a download breaks off."""
    from huggingface_hub import errors

    return (errors.HfHubHTTPError, *(one for one in errors.HfHubHTTPError.__bases__ if one is not Exception))


def _absent(repo: str, file: str, model: str, cause: str) -> UserError:
    return UserError(
        model,
        got=cause,
        expected=f"{file} of https://huggingface.co/{repo}",
        remedy=(
            "open that page and accept its licence if it asks, log in with `hf auth login` or set HF_TOKEN, or "
            "give a local folder with --model-path; `--model mini` needs no account and no download"
        ),
    )


def _connects(url: str, patience: float) -> bool:
    """Whether the server of `url`, or the proxy before it, takes a connection in time; looking up its name counts."""
    address = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy and address.hostname and not urllib.request.proxy_bypass(address.hostname):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
    except ValueError:
        return True  # an address that only the library may understand
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), patience).close()
            answers.append(True)
        except (OSError, UnicodeError):
            pass
        finally:
            answered.set()

    answers: list[bool] = []
    threading.Thread(target=connect, daemon=True).start()
    return answered.wait(patience) and bool(answers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's lines about each retry to itself: what they say is said once, in the error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
