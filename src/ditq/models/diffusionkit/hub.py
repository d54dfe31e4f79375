"""Where the files of each model are: in a local folder, or on the Hugging Face Hub.

Downloads go through `huggingface_hub` (`download.py`), so HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they always
mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ditq.core.errors import UserError
from ditq.models.diffusionkit.download import downloaded
from ditq.models.folders import check_not_quantized, headers

Download = Callable[[str, str, str], Path]
"""(repository, file, name of the model for messages) -> path of the downloaded file."""

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
    "sd3-medium": Source(
        "argmaxinc/mlx-stable-diffusion-3-medium",
        "sd3_medium.safetensors",
        (
            "sd3_medium_incl_clips.safetensors",
            "sd3_medium_incl_clips_t5xxlfp16.safetensors",
            "sd3_medium_incl_clips_t5xxlfp8.safetensors",
        ),
    ),
    "sd3.5-medium": Source(
        "stabilityai/stable-diffusion-3.5-medium",
        "sd3.5_medium.safetensors",
        ("sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",),
    ),
    "sd3.5-large": Source(
        "argmaxinc/mlx-stable-diffusion-3.5-large",
        "sd3.5_large.safetensors",
        ("sd3.5_large_fp8_scaled.safetensors",),
    ),
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
            "t5xxl_fp8_e4m3fn_scaled.safetensors",
            "t5xxl_fp8_e4m3fn.safetensors",
            "text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors",
            "text_encoders/t5xxl_fp8_e4m3fn.safetensors",
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

T5_PARTS = ("t5", "t5_config", "spiece")
"""Those that --text-encoders clip does without."""

LAYOUT = (
    "give a folder that holds {file}, clip_l.safetensors, clip_g.safetensors, t5xxl_fp16.safetensors (or "
    "--text-encoders clip) and the configs and tokenizers of https://huggingface.co/argmaxinc/stable-diffusion, or a "
    "diffusers folder (transformer, vae, text_encoder, tokenizer ...)"
)
"""What a local folder must look like."""


@dataclass(frozen=True)
class Files:
    """Finds the files of the model `name` locally or on the Hub."""

    name: str
    path: Path | None = None
    """A folder; or the file of the transformer, beside which the others are looked for."""
    download: Download = downloaded

    def transformer(self) -> Path:
        """The file, or diffusers folder, of the diffusion transformer."""
        if self.path is not None and self.path.is_file():
            return self.path
        return self._find(CHECKPOINTS[self.name], "transformer")

    def vae(self) -> Path:
        """The file, or diffusers folder, of the VAE. Raises UserError where a local file has none."""
        if self.path is None:
            return self._find(CHECKPOINTS[self.name], "vae")
        found = self.path if self.path.is_file() else self._find(CHECKPOINTS[self.name], "vae")
        if found.is_dir() or any(key.startswith(("first_stage_model.", "vae.")) for key in headers(found)):
            return found
        if (found.parent / "vae").is_dir():
            return found.parent / "vae"
        got = "a file without a VAE (first_stage_model.*), and no folder vae beside it"
        raise UserError(str(found), got=got, expected=f"the files of {self.name}", remedy=self._layout)

    def text(self, part: str) -> Path:
        """A part of TEXT."""
        return self._find(TEXT[part])

    def _find(self, source: Source, *folders: str) -> Path:
        if self.path is None:
            return self.download(source.repo, source.file, self.name)
        beside = self.path.is_file()
        folder = snapshot(self.path.parent if beside else self.path)
        check_not_quantized(folder)
        names = (source.file, *source.local, *folders)
        for name in names:
            if (folder / name).exists():
                return folder / name
        got = f"none of {', '.join(names)}{' beside it' if beside else ''}"
        got = got if folder.is_dir() else "no such file or folder"
        raise UserError(str(self.path), got=got, expected=f"the files of {self.name}", remedy=self._layout)

    @property
    def _layout(self) -> str:
        return LAYOUT.format(file=CHECKPOINTS[self.name].file)


def snapshot(folder: Path) -> Path:
    """The newest snapshot where `folder` is a repository in the Hub's own cache, else `folder`."""
    if not (folder / "snapshots").is_dir() or not (folder / "blobs").is_dir():
        return folder
    snapshots = [one for one in (folder / "snapshots").iterdir() if one.is_dir()]
    return max(snapshots, key=lambda one: one.stat().st_mtime, default=folder)
