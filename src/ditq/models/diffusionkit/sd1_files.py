"""Where the files of Stable Diffusion 1 are: a diffusers folder, the original single file, or the Hub."""

from dataclasses import dataclass
from pathlib import Path

from ditq.core.errors import UserError
from ditq.models.diffusionkit.diffusers_files import DiffusersFiles
from ditq.models.diffusionkit.hub import Source, snapshot
from ditq.models.folders import headers

REPOSITORIES = {
    "sd1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd1.4": "CompVis/stable-diffusion-v1-4",
}
"""Each model's repository, a diffusers folder. Runway's, in which 1.5 was published, was deleted in 2024."""
SINGLE = {
    "sd1.5": (
        "v1-5-pruned-emaonly.safetensors",
        "v1-5-pruned-emaonly-fp16.safetensors",
        "v1-5-pruned.safetensors",
    ),
    "sd1.4": ("sd-v1-4.safetensors", "sd-v1-4-full-ema.safetensors"),
}
"""Names of each model's original file, which holds everything but the tokenizer."""
_PARTS = {
    "unet": ("unet", "diffusion_pytorch_model.fp16.safetensors"),
    "vae": ("vae", "diffusion_pytorch_model.fp16.safetensors"),
    "clip_l": ("text_encoder", "model.fp16.safetensors"),
    "clip_l_config": ("text_encoder", "config.json"),
    "vocab_l": ("tokenizer", "vocab.json"),
    "merges_l": ("tokenizer", "merges.txt"),
}
"""Folder and file of each part in a diffusers folder."""
CLIP = "cond_stage_model.transformer."
"""What stands before the text encoder's keys in an original file."""
_INSIDE = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "clip_l": CLIP}
_LAYOUT = (
    "give a diffusers folder (unet, vae, text_encoder, tokenizer), or the original single file ({file}), beside which "
    "the folder tokenizer may stand"
)


@dataclass(frozen=True)
class SD1Files(DiffusersFiles):
    """Finds the files of the model `name`, of Stable Diffusion 1, locally or on the Hub."""

    def transformer(self) -> Path:
        """The file, or diffusers folder, of the UNet."""
        return self.text("unet")

    def vae(self) -> Path:
        """The file, or diffusers folder, of the VAE."""
        return self.text("vae")

    def text(self, part: str) -> Path:
        """A part of the model; of an original file, one that it holds is the file itself.

        A tokenizer that is not beside an original file is the Hub's: it is the same for all models of the family.
        """
        folder, file = _PARTS[part]
        single = self.single()
        if single is not None and self._holds(single, part):
            return single
        if self.path is None:
            return self.download(REPOSITORIES[self.name], f"{folder}/{file}", self.name)
        beside = Source(REPOSITORIES[self.name], f"{folder}/{file}", (file,) if single else ())
        is_weights = file.endswith(".safetensors")
        try:
            return self._find(beside, *((folder,) if is_weights else ()))
        except UserError as error:
            if single is not None and folder == "tokenizer":
                return self.download(REPOSITORIES[self.name], f"{folder}/{file}", self.name)
            raise self.another_pipeline("StableDiffusionPipeline") or error from error

    def single(self) -> Path | None:
        """The original file: `path` itself, or one of its usual names in the folder; None where there is none."""
        if self.path is None or self.path.is_file():
            return self.path
        folder = snapshot(self.path)
        return next((one for name in SINGLE[self.name] if (one := folder / name).is_file()), None)

    def _holds(self, single: Path, part: str) -> bool:
        """Whether an original file has the part; a file of nothing that is known counts as a UNet's, to be told of."""
        if part == "unet":
            return True
        return part in _INSIDE and any(key.startswith(_INSIDE[part]) for key in headers(single))

    @property
    def _layout(self) -> str:
        return _LAYOUT.format(file=SINGLE[self.name][0])
