"""Weight methods compared on one calibration, grid, set of prompts and seeds: an entry per method and bits."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ditq.calibration import ImageSet
from ditq.checkpoint import QuantizedCheckpoint
from ditq.core import plan
from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_json, write_json
from ditq.core.recipe import plain_recipe
from ditq.core.schema import checked
from ditq.core.spec import Spec
from ditq.evaluation.layer_errors import Errors, errors_of, spread_samples
from ditq.evaluation.report import EvalReport, Spread
from ditq.evaluation.same_seed import evaluate
from ditq.evaluation.stopwatch import Stopwatch
from ditq.evaluation.variants import Variant, float_variant, quantized_variant
from ditq.models.base import TextToImage
from ditq.models.digest import weights_digest
from ditq.quantization import Calibration, quantize
from ditq.sampling.generate import Settings

HELD_OUT_STEPS = 4
"""Steps of each held-out picture that layer and block errors are taken at."""


@dataclass(frozen=True)
class Contender:
    """A weight method with its fields."""

    name: str
    """What tables and figures call it."""
    method: str
    """What recipes call its method."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the method, where they differ from its defaults."""

    @property
    def slug(self) -> str:
        """The name in a command's flags and as a folder's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower())


CONTENDERS = (
    Contender("rounding, min-max", "rtn", {"search": False}),
    Contender("rounding, MSE", "rtn"),
    Contender("AdaRound", "adaround"),
    Contender("GPTQ", "gptq"),
    Contender("GPTQ-Sequential", "gptq-sequential"),
    Contender("Qronos", "qronos"),
)


@dataclass(frozen=True)
class Entry:
    """The errors, time and memory of one contender on one grid."""

    contender: str
    bits: int
    bits_per_weight: float
    layer_error: float
    """Mean over the layers of the relative error of their outputs, for the float model's inputs; held-out pictures."""
    block_error: float
    """Mean over the blocks of the relative error behind them, all blocks quantized: in SD3 of the image stream."""
    latent_error: Spread
    """Of the final latents, in %."""
    psnr: Spread
    """Of the pictures, in dB."""
    seconds: float
    """Of quantizing, without the cache of block inputs."""
    peak_memory: int
    """Bytes that MLX held at most while quantizing a block, beside the model and what was quantized before. Memory of
    NumPy (the Hessians) is not counted."""


@dataclass(frozen=True)
class Comparison:
    """All entries of a model."""

    model: str
    entries: list[Entry]
    facts: dict[str, Any]
    """The grid, the calibration, and the settings of the pictures."""
    report: EvalReport

    def entry(self, contender: str, bits: int) -> Entry:
        """The entry of a contender at this many bits. Raises KeyError when there is none."""
        return {(one.contender, one.bits): one for one in self.entries}[contender, bits]


@dataclass(frozen=True)
class Arena:
    """What all contenders share: model, calibration, folder and kind of grid."""

    model: TextToImage
    calibration: Calibration
    folder: Path
    symmetric: bool = True
    group_size: int | None = None
    seed: int = 0
    on_block: Callable[[], None] = lambda: None

    @property
    def images(self) -> ImageSet:
        """The recorded pictures. Raises DitqError where the calibration holds none."""
        if self.calibration.images is None:
            raise DitqError("methods are compared on recorded pictures: the calibration holds none")
        return self.calibration.images

    def quantized(self, contender: Contender, bits: int) -> tuple[QuantizedCheckpoint, float, int]:
        """The contender's checkpoint on the grid of this many bits, with the seconds and bytes that it took.

        Times are kept block by block: a resumed run counts all but what an interrupted block had taken.
        """
        own = self.folder / contender.slug / f"w{bits}"
        clock = Stopwatch(own / "cost.json")
        spec = Spec(bits, self.symmetric, self.group_size)
        recipe = plain_recipe(f"{contender.name} W{bits}", contender.method, spec, dict(contender.fields))

        def on_block(number: int, report: dict[str, Any]) -> None:
            clock.lap(number)
            self.on_block()

        made = quantize(self.model, recipe, self.calibration, own, True, self.seed, on_block=on_block)
        return made, clock.seconds, clock.peak


def compare(
    arena: Arena,
    contenders: Sequence[Contender],
    bits: Sequence[int],
    held_out: Sequence[int],
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    batch_size: int = 1,
    on_picture: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Every contender at every number of bits. `held_out` are recorded pictures that the calibration left out.

    What is finished lies in `arena.folder` and is not computed again. Raises UserError for a folder that was begun with
    something else.
    """
    if not held_out:
        raise UserError(
            "calibration pictures",
            got="none left for layer and block errors",
            remedy="calibrate on fewer with --num-images, or record more",
        )
    variants: list[Variant] = [float_variant(arena.model)]
    made: dict[tuple[str, int], tuple[Errors, float, int]] = {}
    for number in bits:
        for contender in contenders:
            checkpoint, seconds, peak = arena.quantized(contender, number)
            variants.append(
                quantized_variant(_name(contender.name, number), arena.model, checkpoint, activations=False)
            )
            errors = _errors(arena, checkpoint, variants[-1], held_out)
            made[contender.name, number] = errors, seconds, peak
    report = evaluate(
        arena.model,
        variants,
        prompts,
        seeds,
        settings,
        arena.folder / "pictures",
        batch_size,
        on_picture=on_picture,
    )
    entries = []
    for (name, number), (errors, seconds, peak) in made.items():
        drawn = report.variant(_name(name, number))
        scores = drawn.spread("latent_error"), drawn.spread("psnr")
        size = drawn.size.bits_per_weight
        entries.append(Entry(name, number, size, errors.layer, errors.block, *scores, seconds, peak))
    facts = {
        "symmetric": arena.symmetric,
        "group_size": arena.group_size,
        "calibration_rows": len(arena.calibration.cache),
        "calibration_pictures": len({image for image, _ in arena.calibration.cache.samples}),
        "held_out_pictures": len(held_out),
        "pictures": len(prompts),
        "settings": settings.recorded(),
        "contenders": [{**asdict(one), "fields": dict(one.fields)} for one in contenders],
    }
    return Comparison(arena.model.name, entries, facts, report)


def _errors(
    arena: Arena, checkpoint: QuantizedCheckpoint, variant: Variant, held_out: Sequence[int]
) -> Errors:
    """The errors on held-out pictures, kept under the checkpoint's fingerprint."""
    weights = weights_digest(arena.model.network())
    key = plan.digest(variant.fingerprint, repr(list(held_out)), arena.images.digest, weights)
    path = arena.folder / "errors" / f"{key}.json"
    if path.exists():
        return checked(read_json(path), Errors, str(path))
    images = arena.images
    samples = spread_samples(images, held_out, HELD_OUT_STEPS)
    errors = errors_of(arena.model.network(), checkpoint, images, samples)
    write_json(path, asdict(errors))
    return errors


def _name(contender: str, bits: int) -> str:
    return f"{contender} W{bits}"
