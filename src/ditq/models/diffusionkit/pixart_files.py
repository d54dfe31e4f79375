"""Where the files of PixArt-alpha and -Sigma are: a diffusers folder, or the Hub."""

from dataclasses import dataclass
from pathlib import Path

from ditq.core.errors import UserError
from ditq.models.diffusionkit.diffusers_files import DiffusersFiles
from ditq.models.diffusionkit.hub import TEXT, Source

REPOSITORIES = {
    "pixart-alpha": "PixArt-alpha/PixArt-XL-2-1024-MS",
    "pixart-alpha-512": "PixArt-alpha/PixArt-XL-2-512x512",
    "pixart-sigma": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
}
"""Each model's repository, a diffusers folder."""
_OWN = ("transformer", "vae")
"""The parts that are the model's own. Its text encoder is T5 as it was published, and is downloaded in 16 bits from
where the SD3 models have it: in the model's repository it lies in 32, 19 GB."""
_LOCAL = {
    "transformer": ("transformer", "diffusion_pytorch_model.safetensors"),
    "vae": ("vae",),
    "t5": ("text_encoder", TEXT["t5"].file, *TEXT["t5"].local),
    "t5_config": ("text_encoder/config.json", "t5/config.json"),
    "spiece": ("tokenizer/spiece.model", "spiece.model", "t5/spiece.model"),
}
"""Names of each part in a local folder."""


@dataclass(frozen=True)
class PixArtFiles(DiffusersFiles):
    """Finds the files of the model `name`, of the PixArt family, locally or on the Hub."""

    @property
    def pipeline(self) -> str:
        """The pipeline that a folder of this model is for."""
        return "PixArtSigmaPipeline" if self.name == "pixart-sigma" else "PixArtAlphaPipeline"

    def transformer(self) -> Path:
        """The file, or diffusers folder, of the transformer."""
        if self.path is not None and self.path.is_file():
            return self.path
        return self.text("transformer")

    def vae(self) -> Path:
        """The file, or diffusers folder, of the VAE."""
        return self.text("vae")

    def text(self, part: str) -> Path:
        """A part of the model."""
        if self.path is None and part in _OWN:
            file = f"{part}/diffusion_pytorch_model.safetensors"
            return self.download(REPOSITORIES[self.name], file, self.name)
        if self.path is None:
            return self._find(TEXT[part])
        first, *others = _LOCAL[part]
        return self._find(Source(REPOSITORIES[self.name], first, tuple(others)))

    def check(self) -> None:
        """Raises UserError for a folder of another pipeline, and for one whose model is sampled in another way."""
        if error := self.another_pipeline(self.pipeline):
            raise error
        self.check_prediction("models that predict velocity or data are not supported")
        if self.scheduler().get("_class_name") == "LCMScheduler":
            raise UserError(
                f"{self.path}: scheduler",
                got="a latent consistency model, which takes a few steps without guidance",
                expected=f"{self.name}",
                remedy=f"give the folder of https://huggingface.co/{REPOSITORIES[self.name]}",
            )

    @property
    def _layout(self) -> str:
        return (
            "give a diffusers folder (transformer, vae, text_encoder, tokenizer), such as a copy of "
            f"https://huggingface.co/{REPOSITORIES[self.name]}"
        )
