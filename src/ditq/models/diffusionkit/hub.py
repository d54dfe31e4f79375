"""Where the files of each model are: in a local folder, or on the Hugging Face Hub.

Downloads go through `huggingface_hub`, so HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they always mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ditq.core.errors import UserError

Download = Callable[[str, str], str]
"""(repository, file) -> path of the downloaded file."""

_TEXT = "argmaxinc/stable-diffusion"
_T5 = "google/t5-v1_1-xxl"


@dataclass(frozen=True)
class Source:
    """Where one part of a model lies: a file of a Hub repository, or the first of some names in a local folder."""

    repo: str
    file: str
    local: tuple[str, ...] = ()
    """Other names in a local folder, after `file`: DiffusionKit's, Stability's and diffusers' layouts."""


def _folder(name: str) -> tuple[str, ...]:
    """A diffusers folder's 16-bit file, which may lie beside the full one, or else what the folder holds."""
    return f"{name}/model.fp16.safetensors", name


CHECKPOINTS: dict[str, Source] = {
    "sd3-medium": Source("argmaxinc/mlx-stable-diffusion-3-medium", "sd3_medium.safetensors"),
    "sd3.5-medium": Source("stabilityai/stable-diffusion-3.5-medium", "sd3.5_medium.safetensors"),
    "sd3.5-large": Source("argmaxinc/mlx-stable-diffusion-3.5-large", "sd3.5_large.safetensors"),
}
"""Each model's single file: its transformer and, under `first_stage_model.`, its VAE."""

TEXT: dict[str, Source] = {
    "clip_l": Source(
        _TEXT,
        "clip_l/model.fp16.safetensors",
        ("clip_l.safetensors", "text_encoders/clip_l.safetensors", *_folder("text_encoder")),
    ),
    "clip_g": Source(
        _TEXT,
        "clip_g/model.fp16.safetensors",
        ("clip_g.safetensors", "text_encoders/clip_g.safetensors", *_folder("text_encoder_2")),
    ),
    "t5": Source(
        _TEXT,
        "t5/t5xxl.safetensors",
        (
            "t5xxl.safetensors",
            "t5xxl_fp16.safetensors",
            "text_encoders/t5xxl_fp16.safetensors",
            "text_encoder_3",
        ),
    ),
    "clip_l_config": Source(_TEXT, "clip_l/config.json", ("text_encoder/config.json",)),
    "clip_g_config": Source(_TEXT, "clip_g/config.json", ("text_encoder_2/config.json",)),
    "t5_config": Source(_T5, "config.json", ("t5/config.json", "text_encoder_3/config.json")),
    "vocab_l": Source(_TEXT, "tokenizer_l/vocab.json", ("tokenizer/vocab.json",)),
    "merges_l": Source(_TEXT, "tokenizer_l/merges.txt", ("tokenizer/merges.txt",)),
    "vocab_g": Source(_TEXT, "tokenizer_g/vocab.json", ("tokenizer_2/vocab.json",)),
    "merges_g": Source(_TEXT, "tokenizer_g/merges.txt", ("tokenizer_2/merges.txt",)),
    "spiece": Source(_T5, "spiece.model", ("t5/spiece.model", "tokenizer_3/spiece.model")),
}
"""The text encoders and tokenizers, which all models share."""


@dataclass(frozen=True)
class Files:
    """Finds the files of the model `name`, in the folder `path` or on the Hub."""

    name: str
    path: Path | None = None
    download: Download | None = None
    """In place of `huggingface_hub.hf_hub_download`."""

    def transformer(self) -> Path:
        """The file, or diffusers folder, of the diffusion transformer."""
        return self._find(CHECKPOINTS[self.name], "transformer")

    def vae(self) -> Path:
        """The file, or diffusers folder, of the VAE."""
        return self._find(CHECKPOINTS[self.name], "vae")

    def text(self, part: str) -> Path:
        """A part of TEXT."""
        return self._find(TEXT[part])

    def _find(self, source: Source, *folders: str) -> Path:
        if self.path is None:
            return self._download(source)
        names = (source.file, *source.local, *folders)
        for name in names:
            if (self.path / name).exists():
                return self.path / name
        if not self.path.is_dir():
            raise UserError(str(self.path), got="no such folder", expected=f"the files of {self.name}")
        raise UserError(
            str(self.path), got=f"none of {', '.join(names)}", expected=f"the files of {self.name}"
        )

    def _download(self, source: Source) -> Path:
        from huggingface_hub import errors, hf_hub_download

        try:
            return Path((self.download or hf_hub_download)(source.repo, source.file))
        except errors.GatedRepoError as error:
            raise self._absent(source, "gated files, to which this account has no access yet") from error
        except errors.RepositoryNotFoundError as error:
            raise self._absent(source, "no such repository that this login, or none, may see") from error
        except errors.LocalEntryNotFoundError as error:
            raise self._absent(
                source, f"no {source.file} on this disk, and no connection to the Hub"
            ) from error
        except errors.EntryNotFoundError as error:
            raise self._absent(source, f"a repository without {source.file}") from error
        except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
            raise self._absent(
                source, f"a failed download of {source.file} ({_first_line(error)})"
            ) from error

    def _absent(self, source: Source, cause: str) -> UserError:
        return UserError(
            self.name,
            got=cause,
            expected=f"{source.file} of https://huggingface.co/{source.repo}",
            remedy=(
                "open that page and accept its licence if it asks, log in with `hf auth login` or set HF_TOKEN, or "
                "give a local folder with --model-path; `--model mini` needs no account and no download"
            ),
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
