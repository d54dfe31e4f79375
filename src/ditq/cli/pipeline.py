"""The steps of the W4A8 pipeline as functions, in order, each told in one line and passed over when it was finished.

DIR/pipeline.json           what was asked, which a resumed run must share
DIR/steps/<name>.json       that a step is finished: its line, its seconds
DIR/calibration_data/       step 1, with activations/ (2A, 3A) and adaround_cache/ (2W) in it
DIR/quantization/           step 3W: the run of the recipe, and its figures
DIR/checkpoint/             the quantized model
DIR/evaluation/             a folder per variant, report.json
DIR/comparison.html, comparison.png
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from ditq.activations import ByError, ByTier, Fixed, PerTimestep, Smoothing
from ditq.activations.quant_config import read_quant_config
from ditq.calibration import (
    CacheRecipe,
    ImageRecipe,
    cache_blocks,
    collect_images,
    default_prompts,
    read_block_cache,
    read_images,
)
from ditq.calibration.block_caching import cache_meta
from ditq.calibration.drawn_by import NAME, check_weights, read_drawn_by
from ditq.checkpoint import read_folder, write_folder
from ditq.cli.analyze_activations import write_decision
from ditq.cli.cache_adaround_data import check_samples
from ditq.cli.folders import begun
from ditq.cli.pipeline_blocks import write_blocks
from ditq.cli.progress import Bars, Progress
from ditq.core import plan
from ditq.core.files import read_text
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.diagnostics import InputRecipe, collect_inputs, read_layer_statistics
from ditq.diagnostics.layer_files import MANIFEST
from ditq.evaluation import (
    FIRST_SEED,
    EvalReport,
    Variant,
    evaluate,
    evaluation_prompts,
    float_variant,
    lazy_variant,
    rounded,
    size_on,
    write_report,
)
from ditq.models import TextToImage
from ditq.quantization import Calibration, quantize
from ditq.quantization.amounts import Amounts
from ditq.sampling.generate import Settings

CONTENTS = (
    "pipeline.json",
    "steps",
    "calibration_data",
    "quantization",
    "checkpoint",
    "evaluation",
    "comparison.html",
    "comparison.png",
)
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


@dataclass(frozen=True)
class Pipeline:
    """Everything that decides what the pipeline makes of a model."""

    model: TextToImage
    settings: Settings
    amounts: Amounts
    recipe: Recipe
    """Of the weights; step 3A decides on the activations."""
    bits_a: int | str
    """4 to 8, or "tiers" (by size) or "error" (by error under a budget)."""
    smooth: str
    seed: int
    folder: Path
    loaded: dict[str, str | None] = field(default_factory=dict)
    """How the model was loaded."""

    @property
    def calibration(self) -> Path:
        """Step 1's folder."""
        return self.folder / "calibration_data"

    @property
    def statistics(self) -> Path:
        """Step 2A's manifest."""
        return self.calibration / "activations" / MANIFEST

    @property
    def quant_config(self) -> Path:
        """Step 3A's file."""
        return self.calibration / "activations" / "quant_config.json"

    @property
    def cache(self) -> Path:
        """Step 2W's folder."""
        return self.calibration / "adaround_cache"

    @property
    def quantization(self) -> Path:
        """Step 3W's folder."""
        return self.folder / "quantization"

    @property
    def spec(self) -> Spec:
        """The grid of most layers: that of the recipe's last line."""
        spec = self.recipe.rules[-1].spec
        assert spec is not None, "the last line of a pipeline's recipe quantizes"
        return spec

    @property
    def label(self) -> str:
        """What the quantized model is called: W4A8, or W4A4-8 where bits differ."""
        return f"W{self.spec.bits}A{self.bits_told}"

    @property
    def bits_told(self) -> int | str:
        """The bits of the activations as a name has them."""
        return self.bits_a if isinstance(self.bits_a, int) else "4-8"

    def begin(self, resume: bool) -> None:
        """Writes what is asked, or compares it with what was. Raises UserError when they differ."""
        asked = {
            "kind": "ditq.pipeline",
            "version": 1,
            "model": self.model.name,
            "settings": self.settings.recorded(),
        }
        asked |= {
            "amounts": vars(self.amounts),
            "recipe": self.recipe.to_json(),
            "bits_a": self.bits_a,
            **self.loaded,
        }
        plan.begin(
            self.folder / "pipeline.json",
            {**asked, "smooth": self.smooth, "seed": self.seed},
            resume,
            threads=True,
        )
        drawn = read_drawn_by(self.calibration)
        if drawn is not None and (self.folder / "steps" / "generate_calibration_data.json").exists():
            check_weights(self.calibration / NAME, drawn.dtype, drawn.weights, self.model.network())

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Name and function of every step but the last, the page; each function returns its line."""
        return [
            ("generate_calibration_data", self.generate),
            ("collect_layer_activations", self.collect),
            ("analyze_activations", self.analyze),
            ("cache_adaround_data", self.cache_data),
            ("quantize", self.quantize),
            ("evaluate", self.evaluate),
        ]

    def generate(self) -> str:
        """Step 1: whole trajectories."""
        recipe = ImageRecipe(self.amounts.images, self.seed, self.amounts.batch_size)
        prompts = default_prompts(self.model.name)
        held = begun(self.calibration, "manifest.json")
        with held, Progress(recipe.num_images * self.settings.steps, "step", "calibration") as bar:
            collect_images(self.model, prompts, recipe, self.settings, self.calibration, True, bar.advance)
        return f"{recipe.num_images} trajectories of {self.settings.steps} steps"

    def collect(self) -> str:
        """Step 2A: what layers receive."""
        amounts, images = self.amounts, read_images(self.calibration)
        recipe = InputRecipe(amounts.statistics_images, amounts.statistics_stride, amounts.batch_size)
        total = amounts.statistics_images * len(range(0, self.settings.steps, amounts.statistics_stride))
        with Progress(total, "forward", "activations") as bar:
            found = collect_inputs(self.model, images, recipe, self.statistics.parent, True, bar.advance)
        return f"{len(found['layers'])} layers, {len(found['images'])} pictures x {len(found['step_keys'])} steps"

    def analyze(self) -> str:
        """Step 3A: grids, shifts and factors."""
        choices = {"tiers": ByTier(), "error": ByError()}
        bits = Fixed(self.bits_a) if isinstance(self.bits_a, int) else choices[self.bits_a]
        method = PerTimestep(bits, smoothing=Smoothing(self.smooth, weights=self.spec))
        statistics = read_layer_statistics(self.statistics)

        def weights(paths: list[str]) -> dict[str, mx.array]:
            network = self.model.network()
            layers = network.anatomy.modules(network)
            return {path: layers[path].weight for path in paths}

        with Progress(len(statistics.steps), "timestep", "analysis") as bar:
            summary, _, _ = write_decision(
                method,
                statistics,
                self.quant_config,
                weights,
                on_step=bar.advance,
            )
        bits = ", ".join(f"{count} {name}" for name, count in summary["bits"].items())
        return f"{bits} ({summary['average_bits']:.2f} bits on average), {summary['smoothed_inputs']} inputs smoothed"

    def cache_data(self) -> str:
        """Step 2W: what blocks receive and return."""
        amounts, images = self.amounts, read_images(self.calibration)
        recipe = CacheRecipe(amounts.cache_images, amounts.cache_stride, batch_size=amounts.batch_size)
        samples = len(recipe.samples(images))
        check_samples(cache_meta(self.model, images, recipe), self.cache / "samples")
        with Progress(samples, "sample", "block cache") as bar:
            cache_blocks(self.model, images, recipe, self.cache, True, bar.advance)
        return f"{samples} samples of every block"

    def quantize(self) -> str:
        """Step 3W: the recipe on the grids of step 3A, and the checkpoint that comes of it."""
        cache, images = read_block_cache(self.cache), read_images(self.calibration)
        table = read_quant_config(self.quant_config)
        data = Calibration(images, cache, table, plan.digest(read_text(self.quant_config)))
        blocks: list[dict[str, Any]] = []
        iterations, tuning = cache.blocks * self.amounts.iterations, self.amounts.tuning
        with Bars() as bars:
            made = quantize(
                self.model,
                self.recipe,
                data,
                self.quantization,
                True,
                self.seed,
                on_iteration=lambda *_: bars.advance("adaround, iterations", 1, iterations),
                on_block=lambda _, report: blocks.append(report),
                on_tuning=lambda *_: bars.advance("tuning, steps", 1, tuning),
            )
        config = write_blocks(self.quantization, self.recipe, self.bits_told, len(cache), blocks)
        files = write_folder(self.folder / "checkpoint", self.model.network(), made)
        size, ratio = sum(file.stat().st_size for file in files), config["error"] / config["error_rounding"]
        return (
            f"{len(blocks)} blocks, {ratio:.0%} of the error of rounding to nearest; {size / 1e6:.1f} MB "
            f"in {len(files)} files"
        )

    def evaluate(self) -> str:
        """Same-seed pictures of every variant."""
        prompts = evaluation_prompts(self.model.name, self.amounts.prompts)
        variants = self.variants()
        with Progress((len(variants) + 1) * len(prompts), "picture", "evaluation") as bar:
            report = evaluate(
                self.model,
                variants,
                prompts,
                [FIRST_SEED + i for i in range(len(prompts))],
                self.settings,
                self.folder / "evaluation",
                self.amounts.batch_size,
                on_picture=bar.advance,
            )
        write_report(self.folder / "evaluation" / "report.json", report)
        return self.verdict(report)

    def variants(self) -> list[Variant]:
        """The float model, then rounding and AdaRound, with weights alone and with activations too.

        Each is made when it is drawn with, so that one at a time is in memory.
        """
        table, alone = read_quant_config(self.quant_config), f"W{self.spec.bits}A16"
        size, whole = size_on(self.model, self.recipe), size_on(self.model, self.recipe, table)
        grids = plan.digest(read_text(self.quant_config))
        learned = plan.digest(read_text(self.quantization / "plan.json"), grids)
        plain, ours = (
            partial(rounded, self.model, self.recipe),
            partial(read_folder, self.folder / "checkpoint"),
        )
        return [
            float_variant(self.model),
            lazy_variant(f"{alone} rounding", plain, "rounding", size, False),
            lazy_variant(f"{alone} AdaRound", ours, learned, size, False),
            lazy_variant(f"{self.label} rounding", partial(plain, table), f"rounding, {grids}", whole),
            lazy_variant(f"{self.label} AdaRound", ours, learned, whole),
        ]

    def verdict(self, report: EvalReport) -> str:
        """The evaluation in a line."""
        ours, plain = (f"{self.label} {name}" for name in ("AdaRound", "rounding"))
        gain = report.gain(ours, plain)
        return (
            f"{ours} {report.variant(ours).spread('psnr').median:.1f} dB to float, "
            f"{gain.spread.median:+.1f} dB over rounding (the median of the pictures' differences), "
            f"better on {gain.wins} of {gain.pictures} pictures"
        )
