"""What each choice costs on `mini`: same-seed pictures of many quantized variants against the float model's.

    python benchmarks/mini_results.py --work demo/mini_results --out docs/results/mini.md

Calibrates, learns the rounding, and draws 64 prompts with every variant: about 40 minutes with `--prompts 48` on one
core. Finished parts are kept in --work; run it again to go on. The pictures and the figure go beside --out.
"""

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import numpy as np
from mini_results_page import GRIDS, RANGES, STATIC, TIMED, TIMES, headline, shown_variants, text

from ditq import checkpoint
from ditq.activations import ActivationTable, ByError, ByTier, Fixed, PerTimestep, Smoothing, Static
from ditq.activations.quant_config import read_quant_config
from ditq.calibration import read_block_cache
from ditq.checkpoint import QuantizedCheckpoint
from ditq.cli.analyze_activations import write_decision
from ditq.cli.pipeline import Pipeline
from ditq.cli.progress import Progress
from ditq.cli.run_pipeline import pipeline_recipe
from ditq.cli.stages import finish
from ditq.core import plan
from ditq.core.files import read_json, read_text, write_figure, write_json, write_text
from ditq.core.platform import prepare
from ditq.core.spec import Spec
from ditq.diagnostics import read_layer_statistics
from ditq.evaluation import (
    FIRST_SEED,
    Variant,
    draw,
    evaluate,
    evaluation_prompts,
    float_variant,
    quantized_variant,
    rounded,
    write_report,
)
from ditq.models import load
from ditq.plots.comparison import picture_grid, scores_by_variant
from ditq.quantization import WeightTrack, quantize_weights
from ditq.quantization.amounts import Amounts
from ditq.sampling.generate import settings_for
from ditq.weights import AdaRound

BITS = {"A8": Fixed(8), "A6": Fixed(6), "A4": Fixed(4), "tiers": ByTier(), "budget of 6 bits": ByError(6.0)}
"""How the bits of activations are chosen, by the name in the table."""
LEARNED = {"W4": Spec(4), "W4 g64": Spec(4, group_size=64), "W3": Spec(3)}
"""Grids on which rounding is learned."""
EVERY = 7
"""Of the prompts: those whose pictures are shown."""


@dataclass(frozen=True)
class Study:
    """One calibration of mini, and everything that is made from it."""

    pipeline: Pipeline
    iterations: int

    def calibrate(self) -> None:
        """Steps 1, 2A and 2W, and a decision on the activations for every choice of bits."""
        line = self.pipeline
        steps = [
            ("generate_calibration_data", line.generate),
            ("collect_layer_activations", line.collect),
            *((f"analyze {name}", partial(self.analyze, name)) for name in BITS),
            *(
                (f"analyze {name}, {time}", partial(self.analyze, name, time))
                for name in GRIDS
                for time in TIMES
            ),
            ("cache_adaround_data", line.cache_data),
            *((f"adaround {name}", partial(self.learn, name)) for name in LEARNED),
        ]
        for step in finish(line.folder, steps):
            print(f"{step.name}: {step.line}, {step.seconds} s", flush=True)

    def analyze(self, name: str, time: str = "") -> str:
        """Grids of these bits. No channel factors: all weights meet all grids."""
        statistics = read_layer_statistics(self.pipeline.statistics)
        bits, smoothing = BITS[name], Smoothing("none")
        method = (
            Static(bits, smoothing=smoothing) if time == STATIC else PerTimestep(bits, smoothing=smoothing)
        )
        if time == TIMED:
            method = replace(method, time_gain=-1e9)
        summary, _, _ = write_decision(
            method, statistics, self.config(name, time), lambda paths: {}, plots=False
        )
        return f"{summary['average_bits']:.2f} bits on average"

    def learn(self, name: str) -> str:
        """Learned rounding on this grid, with 8-bit activations in the loop."""
        path, cache = self.config("A8"), read_block_cache(self.pipeline.cache)
        track = WeightTrack(
            AdaRound(iterations=self.iterations),
            LEARNED[name],
            8,
            read_quant_config(path),
            plan.digest(read_text(path)),
        )
        with Progress(cache.blocks * self.iterations, "iteration", name) as bar:
            config = quantize_weights(
                self.pipeline.model.network(),
                cache,
                track,
                self.weights(name),
                True,
                lambda *_: bar.advance(),
            )
        return f"{config['error'] / config['error_rounding']:.0%} of the error of rounding"

    def config(self, name: str, time: str = "") -> Path:
        """Where the decision for these bits lies."""
        return self.pipeline.folder / "configs" / f"{f'{name} {time}'.strip().replace(' ', '_')}.json"

    def weights(self, name: str) -> Path:
        """Where the learned weights of this grid lie."""
        return self.pipeline.folder / f"adaround_{name.replace(' ', '_')}"

    def table(self, name: str, time: str = "") -> ActivationTable:
        """The activation grids of these bits: per timestep where that pays, for all timesteps, or for each."""
        return read_quant_config(self.config(name, time))

    def variants(self) -> Iterator[Variant]:
        """Every row of the table."""
        model, line = self.pipeline.model, self.pipeline
        yield float_variant(line.model)
        learned = {name: checkpoint.load(self.weights(name), None) for name in LEARNED}
        tables = {name: self.table(name) for name in BITS}
        nearest = {name: rounded(model, spec) for name, spec in {"W8": Spec(8), **LEARNED}.items()}

        def on(found: QuantizedCheckpoint, name: str, table: ActivationTable | None) -> Variant:
            return quantized_variant(name, model, replace(found, activations=table), table is not None)

        yield on(nearest["W8"], "W8 A16 rounding", None)
        for name, spec in LEARNED.items():
            yield on(rounded(model, spec, search=False), f"{name} A16 rounding, min-max", None)
            yield on(nearest[name], f"{name} A16 rounding", None)
            yield on(learned[name], f"{name} A16 AdaRound", None)
        yield on(nearest["W8"], "W8 A8 rounding", tables["A8"])
        for name in ("W4", "W4 g64"):
            yield on(nearest[name], f"{name} A8 rounding", tables["A8"])
            yield on(learned[name], f"{name} A8 AdaRound", tables["A8"])
        for name in RANGES:
            if name != "A8":
                yield on(learned["W4"], f"W4 {name} AdaRound", tables[name])
        for name in GRIDS:
            for time in TIMES:
                yield on(learned["W4"], f"W4 {name} AdaRound, {time}", self.table(name, time))


def main() -> None:
    """Calibrates, draws, and writes the page."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--work", type=Path, default=Path("demo/mini_results"), help="finished parts")
    flags.add_argument("--out", type=Path, default=Path("docs/results/mini.md"), help="the page to write")
    flags.add_argument("--prompts", type=int, help="fewer than all 64")
    flags.add_argument(
        "--iters", type=int, default=200, help="AdaRound's iterations per block (default: 200)"
    )
    flags.add_argument("--images", type=int, default=64, help="calibration pictures (default: 64)")
    args = flags.parse_args()
    model = load("mini")
    settings, prompts = settings_for(model), evaluation_prompts("mini", args.prompts)
    amounts = Amounts(args.images, settings.steps, settings.guidance, args.images, 7, min(args.images, 16), 2)
    amounts = replace(amounts, iterations=args.iters, prompts=len(prompts), batch_size=8)
    recipe = pipeline_recipe(Spec(4), amounts, "none")
    line = Pipeline(model, settings, amounts, recipe, 8, "none", 0, args.work)
    line.begin(resume=True)
    study = Study(line, args.iters)
    study.calibrate()
    variants = list(study.variants())
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    folder = args.work / "evaluation"
    with Progress((len(variants) + 1) * len(prompts), "picture", "evaluation") as bar:
        report = evaluate(model, variants, prompts, seeds, settings, folder, 7, on_picture=bar.advance)
    write_report(args.work / "report.json", report)
    shown = shown_variants(report)
    drawn = {
        one.name: draw(model, one, prompts, seeds, settings, folder, 7).pictures(
            range(0, len(prompts), EVERY)
        )
        for one in variants
        if one.name in shown
    }
    scores = {name: report.shown_scores(name)[::EVERY] for name in shown[1:]}
    write_figure(args.out.with_name("mini_pictures.png"), picture_grid(drawn, prompts[::EVERY], scores))
    dots = {entry.name: entry.scores["psnr"] for entry in report.variants}
    floor = np.array(report.floor.scores["psnr"])
    figure = scores_by_variant(headline(report), dots, "PSNR to the float model, dB", floor)
    write_figure(args.out.with_name("mini_psnr.png"), figure)
    average_bits = {name: read_json(study.config(name))["summary"]["average_bits"] for name in BITS}
    versions = f"ditq {ditq.__version__}, MLX {version('mlx')}"
    ran = f"{versions}, {platform.machine()}, {prepare().device}, {prepare().blas}"
    write_text(args.out, text(report, amounts, average_bits, ran))
    write_json(args.out.with_suffix(".json"), report.as_json())
    print(f"{len(variants)} variants x {len(prompts)} prompts: {args.out}")


if __name__ == "__main__":
    main()
