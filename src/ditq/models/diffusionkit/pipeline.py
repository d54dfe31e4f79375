"""DiffusionKit's own `DiffusionPipeline`, working on current MLX. Importing this module imports DiffusionKit."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image

from ditq.core.errors import UserError
from ditq.core.files import read_image
from ditq.models.diffusionkit.corrections import DK, CorrectedDenoiser, CorrectedMMDiT, rounded_pixels
from ditq.models.diffusionkit.hub import Files
from ditq.models.diffusionkit.text import TextEncoders
from ditq.models.diffusionkit.vae import VAE, VAEShape
from ditq.models.loading import load_weights_into
from ditq.models.mmdit.loading import mmdit_weights

_CONFIGS = {"sd3-medium": DK.config.SD3_2b, "sd3.5-large": DK.config.SD3_8b}
_LOG = logging.getLogger(__name__)


def patched_pipeline(
    name: str = "sd3-medium", path: str | Path | None = None, **options: Any
) -> "CorrectedPipeline":
    """A `diffusionkit.mlx.DiffusionPipeline` of the model `name`, from the Hub or the local folder `path`.

    `options` are DiffusionKit's: w16, a16, shift (3.0 here), use_t5, low_memory_mode. Raises UserError for a model
    that DiffusionKit's transformer cannot run.
    """
    if name not in _CONFIGS:
        raise UserError("DiffusionKit pipeline", got=name, expected=" or ".join(_CONFIGS))
    return CorrectedPipeline(Files(name, Path(path) if path is not None else None), _CONFIGS[name], **options)


class CorrectedPipeline(DK.DiffusionPipeline):
    """The pipeline with every correction; `mmdit`, `decoder` and `encoder` are DiffusionKit's live modules.

    They are loaded once and kept from picture to picture. In low-memory mode the text encoders are freed after each
    prompt, otherwise kept too. The original's constructor is not called: it writes globals of its modules.
    """

    def __init__(
        self,
        files: Files,
        config: Any,
        w16: bool = False,
        shift: float = 3.0,
        use_t5: bool = True,
        low_memory_mode: bool = True,
        a16: bool = False,
        vae_shape: VAEShape = VAEShape(),  # noqa: B008 (frozen)
    ):
        self.float16_dtype = mx.float16
        self.dtype = mx.float16 if w16 else mx.float32
        self.activation_dtype = mx.float16 if a16 else mx.float32
        self.low_memory_mode = low_memory_mode
        self.sampler = DK.ModelSamplingDiscreteFlow(shift=shift)
        self.latent_format = DK.SD3LatentFormat()
        self.model_version = self.model = files.name
        self.use_clip_g = True
        self._files, self._config, self._vae_shape = files, config, vae_shape
        self._text = TextEncoders(files, use_t5, keep=not low_memory_mode)
        self.check_and_load_models()

    @property
    def use_t5(self) -> bool:
        """Whether T5 reads the prompts; the original loads it for every picture, whatever was asked for."""
        return self._text.use_t5

    def check_and_load_models(self) -> None:
        """Loads what is not there yet."""
        if not hasattr(self, "mmdit"):
            self.load_mmdit()
        vae = VAE(self._files.vae(), self._vae_shape)
        if not hasattr(self, "decoder"):
            self.decoder = vae.decoder()
        if not hasattr(self, "encoder"):
            self.encoder = vae.encoder()

    def load_mmdit(self, only_modulation_dict: bool = False) -> Any:
        """Loads the transformer, key biases included, or returns the adaLN weights of the loaded one."""
        if only_modulation_dict:
            return [pair for pair in tree_flatten(self.mmdit.parameters()) if "adaLN" in pair[0]]
        path = self._files.transformer()
        weights = mmdit_weights(path)
        self.mmdit = CorrectedMMDiT(self._config)
        load_weights_into(self.mmdit, weights, str(path), self.dtype)

    def set_up_t5(self) -> None:
        """Lets T5 read the prompts from now on."""
        self._text.use_t5 = True

    def unload_t5(self) -> None:
        """Frees the text encoders, and leaves T5 out from now on."""
        self._text.free()
        self._text.use_t5 = False

    def ensure_models_are_loaded(self) -> None:
        """Evaluates all weights that the pipeline holds."""
        mx.eval(self.mmdit.parameters(), self.decoder.parameters(), self.encoder.parameters())

    def encode_text(
        self, text: str, cfg_weight: float = 7.5, negative_text: str = ""
    ) -> tuple[mx.array, mx.array]:
        """Tokens and pooled vectors of the prompt and, with guidance, of the negative prompt below it."""
        texts = [text, negative_text] if cfg_weight > 0 else [text]
        return self._text.tokens_and_pooled(texts, self._config.token_level_text_embed_dim)

    def denoise_latents(
        self,
        conditioning: mx.array,
        pooled_conditioning: mx.array,
        num_steps: int = 2,
        cfg_weight: float = 0.0,
        latent_size: tuple[int, int] = (64, 64),
        seed: int | None = None,
        image_path: str | None = None,
        denoise: float = 1.0,
    ) -> tuple[mx.array, list[float]]:
        """The VAE's latents and the seconds of each step; without guidance only the first row is run."""
        seed = int(time.time()) if seed is None else seed
        if cfg_weight <= 0:
            conditioning, pooled_conditioning = conditioning[:1], pooled_conditioning[:1]
        start, skipped = self.get_empty_latent(*latent_size), 0
        if image_path is not None:
            start = self.latent_format.process_in(self.encode_image_to_latents(image_path, seed=seed))
            skipped = int(num_steps * (1 - denoise))
        sigmas = self.get_sigmas(self.sampler, num_steps)[skipped:]
        noisy = self.sampler.noise_scaling(sigmas[0], self.get_noise(seed, start), start)
        inputs = {
            "conditioning": conditioning.astype(self.activation_dtype),
            "pooled_conditioning": pooled_conditioning.astype(self.activation_dtype),
            "cfg_weight": cfg_weight,
        }
        latents, seconds = DK.sample_euler(CorrectedDenoiser(self, sigmas), noisy, sigmas, extra_args=inputs)
        return self.latent_format.process_out(latents), seconds

    def generate_image(
        self,
        text: str,
        num_steps: int = 2,
        cfg_weight: float = 0.0,
        negative_text: str = "",
        latent_size: tuple[int, int] = (64, 64),
        seed: int | None = None,
        verbose: bool = True,
        image_path: str | None = None,
        denoise: float = 1.0,
    ) -> tuple[Image.Image, dict[str, Any]]:
        """The picture, and DiffusionKit's log of seconds and gigabytes per phase. Raises UserError for odd latents."""
        if any(side % 2 for side in latent_size):
            raise UserError(
                "latent size", got=latent_size, expected="even numbers: the transformer takes 2x2 patches"
            )
        log: dict[str, Any] = {"peak_memory": 0.0}
        started = time.perf_counter()
        with _phase(log, "text_encoding"):
            conditioning = self.encode_text(text, cfg_weight, negative_text)
        with _phase(log, "denoising"):
            latents, log["denoising"]["iter_time"] = self.denoise_latents(
                *conditioning, num_steps, cfg_weight, latent_size, seed, image_path, denoise
            )
            mx.eval(latents)
        with _phase(log, "decoding"):
            pixels = rounded_pixels(self.decoder(latents.astype(mx.float32)))[0]
        log["total_time"] = round(time.perf_counter() - started, 3)
        if verbose:
            _LOG.info("%s", log)
        return Image.fromarray(pixels), log

    def get_noise(self, seed: int, x_T: mx.array) -> mx.array:
        """DiffusionKit's noise for this seed, drawn without touching NumPy's global generator."""
        batch, height, width, channels = x_T.shape
        noise = np.random.RandomState(seed).standard_normal((batch, channels, height, width))
        return mx.array(noise.astype(np.float32)).transpose(0, 2, 3, 1)

    def encode_image_to_latents(self, image_path: str, seed: int) -> mx.array:
        """The mean of the VAE's latents.

        The original adds the encoder's spread times the very noise that denoising then starts from.
        """
        return self.encoder(self.read_image(image_path)).split(2, axis=-1)[0]

    def read_image(self, image_path: str) -> mx.array:
        """A picture of any mode in [-1, 1], its sides cut down to multiples of 64 by resizing."""
        image = Image.fromarray(read_image(image_path)[0])
        size = image.width // 64 * 64, image.height // 64 * 64
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        return mx.array(np.asarray(image)).astype(mx.float32)[None] / 127.5 - 1


@contextmanager
def _phase(log: dict[str, Any], name: str) -> Iterator[None]:
    """Logs the seconds and the memory of a block, by MLX's current names for what `mx.metal` held."""

    def memory() -> dict[str, float]:
        peak, active = mx.get_peak_memory() / 1024**3, mx.get_active_memory() / 1024**3
        return {"peak_memory": round(peak, 3), "active_memory": round(active, 3)}

    mx.reset_peak_memory()
    entry: dict[str, Any] = {"pre": memory()}
    log[name] = entry
    started = time.perf_counter()
    yield
    entry |= {"post": memory(), "time": round(time.perf_counter() - started, 3)}
    log["peak_memory"] = max(log["peak_memory"], entry["post"]["peak_memory"])
