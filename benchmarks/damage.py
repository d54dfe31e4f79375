"""Predicted damage against measured: each input of `mini` on a grid alone, then all of them by three criteria.

    python benchmarks/damage.py --work demo/damage --out docs/results/damage.md

Float weights. About half an hour on one core. Finished parts are kept in --work; run it again to go on.
"""

import argparse
import platform
import textwrap
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import mlx.core as mx
import numpy as np
from jaxtyping import Float64

from ditq.activations import Fixed, PerTimestep, Smoothing, Static
from ditq.calibration import ImageRecipe, collect_images, default_prompts, read_images, replay
from ditq.capture import swapped
from ditq.cli.progress import Progress
from ditq.core.activation_grid import ActivationGrid
from ditq.core.files import read_npy, write_figure, write_json, write_npy, write_text
from ditq.core.platform import prepare
from ditq.diagnostics import (
    Damage,
    DamageRecipe,
    InputRecipe,
    LayerStatistics,
    collect_inputs,
    measure_damage,
    read_layer_statistics,
)
from ditq.diagnostics.layer_files import MANIFEST
from ditq.evaluation import FIRST_SEED, evaluation_prompts
from ditq.models import TextToImage, load
from ditq.nn import StepClock, on_grids
from ditq.plots.damage import damage_figure
from ditq.sampling.generate import denoised, settings_for

NONE = Smoothing("none")
ALONE = 4
"""Bits of an input that is on a grid alone."""
BATCH = 8
"""Pictures at once."""
METHODS = ("static", "static by damage", "per timestep", "per timestep by damage")
ABOUT = """\
Written by `python benchmarks/damage.py --pictures {pictures} --prompts {prompts} --bits {bits}`. Float weights; grids
and damage from {images} calibration pictures, every 2nd of 28 steps; errors in units of 1e-4, on combinations of object
and background that calibration has not seen. {ran}.
"""
WIDTHS = (6, 4)
"""Bits at which the methods are compared by the prediction's error."""
SAMPLES = 10_000
"""Of the bootstrap over pictures."""


def main() -> None:
    """Measures what is missing, and writes page and figure."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--work", type=Path, default=Path("demo/damage"), help="finished parts")
    flags.add_argument("--out", type=Path, default=Path("docs/results/damage.md"), help="the page to write")
    flags.add_argument("--images", type=int, default=8, help="calibration pictures (default: 8)")
    flags.add_argument("--pictures", type=int, default=2, help="for the prediction's error (default: 2)")
    flags.add_argument("--prompts", type=int, default=16, help="pictures that are drawn (default: 16)")
    flags.add_argument("--bits", type=int, nargs="+", default=[6], help="of drawn pictures (default: 6)")
    args = flags.parse_args()
    model = load("mini")
    settings = settings_for(model)
    with Progress(args.images * settings.steps, "step", "calibration") as bar:
        recipe = ImageRecipe(args.images, 0, 4)
        folder = args.work / "calibration"
        collect_images(model, default_prompts("mini"), recipe, settings, folder, True, bar.advance)
    images = read_images(folder)
    collect_inputs(model, images, InputRecipe(args.images, 2, 4), args.work / "activations", True)
    statistics = read_layer_statistics(args.work / "activations" / MANIFEST)
    measured = DamageRecipe(args.images, batch_size=4)
    with Progress(measured.passes(images), "pass", "damage") as bar:
        damage = measure_damage(model, images, measured, args.work / "damage.npz", True, bar.advance)
    draw = Drawing(model, statistics, damage, args.work, args.pictures, args.prompts)
    rows: dict[str, dict[str, dict]] = {}
    for bits in WIDTHS:
        for name in METHODS:
            cls = Static if name.startswith("static") else PerTimestep
            by = damage if name.endswith("by damage") else None
            decision = cls(Fixed(bits), smoothing=NONE, damage=by).decide(statistics, lambda _: {})
            row: dict = {"replayed": draw.replayed(f"A{bits}, {name}", decision.grids).tolist()}
            if by is not None:
                row["predicted"] = sum(one["predicted_damage"] for one in decision.reports.values())
            if bits in args.bits:
                row["drawn"] = draw.drawn(f"A{bits}, {name}", decision.grids).tolist()
            rows.setdefault(f"A{bits}", {})[name] = row
    inputs = each_alone(draw, statistics, damage)
    write_json(args.out.with_suffix(".json"), {"inputs": inputs, "methods": rows})
    _write(args, inputs, rows)


def each_alone(draw: "Drawing", statistics: LayerStatistics, damage: Damage) -> list[dict]:
    """What every input costs that is alone on its static grid: measured, predicted, and by its layer's output."""
    own = Static(Fixed(ALONE), smoothing=NONE).decide(statistics, lambda _: {})
    by, pooled = Static(Fixed(ALONE), smoothing=NONE, damage=damage), statistics.pooled
    inputs = []
    for source, _, found in by.observed(pooled, pooled.steps[0], {}):
        grid = own.grids[source]
        errors = draw.replayed(f"alone, {source}", {source: grid})
        inputs.append(
            {
                "input": source,
                "label": statistics.manifest["layers"][source]["label"],
                "measured": float(errors.mean()),
                "predicted": found.error(grid.at(pooled.timesteps)),
                "output_error": own.reports[source]["relative_error"][own.kinds[source]],
            }
        )
    return inputs


class Drawing:
    """Runs the model with some inputs on grids, and keeps how far predictions and pictures are from the float ones."""

    def __init__(
        self,
        model: TextToImage,
        statistics: LayerStatistics,
        damage: Damage,
        work: Path,
        pictures: int,
        prompts: int,
    ):
        self.model, self.statistics, self.damage, self.work = model, statistics, damage, work
        self.pictures, self.count = list(range(pictures)), prompts
        self.prompts, self.settings = (
            evaluation_prompts("mini", max(prompts, pictures, 4)),
            settings_for(model),
        )
        recorded = max(pictures, 4)
        recipe = ImageRecipe(recorded, FIRST_SEED, recorded)
        collect_images(model, self.prompts[:recorded], recipe, self.settings, work / "held_out", True)
        self.images = read_images(work / "held_out")
        self.steps = list(range(0, self.settings.steps, 4))
        self.predictions = [self._guided(step) for step in self.steps]

    def replayed(self, name: str, grids: Mapping[str, ActivationGrid]) -> Float64[np.ndarray, "pictures"]:
        """The predictions' squared errors on the float model's trajectory, each times the part of it that is left."""

        def measured() -> np.ndarray:
            timesteps = self.images.timesteps(self.steps)
            parts = self.damage.left(timesteps) * self.settings.steps / len(self.steps)
            total, clock = np.zeros(len(self.pictures)), StepClock()
            network = self.model.network()
            with swapped(network, self._layers(grids, clock)):
                clock.follow(timesteps)
                for row, step in enumerate(self.steps):
                    clock.set(row)
                    error = self._guided(step) - self.predictions[row]
                    total += parts[row] * np.square(error).mean(axis=(1, 2, 3))
            return total

        return self._kept(f"replayed, {name}", measured)

    def drawn(self, name: str, grids: Mapping[str, ActivationGrid]) -> Float64[np.ndarray, "pictures"]:
        """The mean squared error of each picture's final latents."""
        reference = self._kept("float", self._latents)

        def measured() -> np.ndarray:
            with swapped(self.model.network(), self._layers(grids, StepClock())):
                return np.square(self._latents() - reference).mean(axis=(1, 2, 3))

        return self._kept(name, measured)

    def _layers(self, grids: Mapping[str, ActivationGrid], clock: StepClock) -> dict:
        network, layers = self.model.network(), self.statistics.layers
        of_layers = {layer: grids[source] for layer, source in layers.items() if source in grids}
        return on_grids(network.anatomy.modules(network), of_layers, clock)

    def _guided(self, step: int) -> Float64[np.ndarray, "pictures height width channels"]:
        rows = np.array(replay(self.model.network(), self.images, self.pictures, step), np.float64)
        prompt, negative = np.split(rows, 2)
        return negative + self.settings.guidance * (prompt - negative)

    def _latents(self) -> np.ndarray:
        seeds = [FIRST_SEED + i for i in range(self.count)]
        with Progress(-(-self.count // BATCH) * self.settings.steps, "step", "pictures") as bar:
            prompts = self.prompts[: self.count]
            parts = denoised(self.model, prompts, seeds, self.settings, BATCH, bar.advance)
            return np.concatenate([np.array(part.astype(mx.float32), np.float64) for part in parts])

    def _kept(self, name: str, measured: Callable[[], np.ndarray]) -> np.ndarray:
        """What an earlier run found, or what is measured now."""
        path = self.work / "errors" / f"{name.replace(' ', '_')}.npy"
        if not path.exists():
            write_npy(path, measured())
        return read_npy(path)


def _write(args: argparse.Namespace, inputs: list[dict], rows: dict[str, dict[str, dict]]) -> None:
    """The page and the figure."""
    versions = f"ditq {ditq.__version__}, MLX {version('mlx')}"
    ran = f"{versions}, {platform.machine()}, {prepare().device}, {prepare().blas}"
    bits = " ".join(map(str, args.bits))
    about = ABOUT.format(pictures=args.pictures, prompts=args.prompts, bits=bits, images=args.images, ran=ran)
    measured, told, output = (
        np.array([one[name] for one in inputs]) for name in ("measured", "predicted", "output_error")
    )
    (log, rank), (output_log, output_rank) = (_agreement(values, measured) for values in (told, output))
    ratio = np.quantile(told / measured, [0.25, 0.5, 0.75])
    conclusion = (
        f"Each input of mini alone at A{ALONE}: the predicted damage has a correlation of {log:.2f} with the "
        f"measured one, the error of the layer's output {output_log:.2f} (logarithms)"
    )
    write_figure(args.out.with_suffix(".png"), damage_figure(conclusion, measured, told, output))
    first = (
        f"Each of the {len(inputs)} inputs alone on its static grid of {ALONE} bits. Measured: the float model's "
        f"trajectories of {args.pictures} pictures, every 4th step, the guided prediction with the input "
        "on its grid and without, the mean squared difference times the part that is left. Correlation with it, of "
        f"logarithms and of ranks: predicted damage {log:.2f} and {rank:.2f}, squared relative error of the layer's "
        f"output {output_log:.2f} and {output_rank:.2f}. Predicted over measured: {ratio[1]:.2f} in the median, "
        f"quartiles {ratio[0]:.2f} and {ratio[2]:.2f}."
    )
    lines = ["| input | measured | predicted | output error, squared, % |", "|---|--:|--:|--:|"]
    for one in sorted(inputs, key=lambda one: -one["measured"]):
        lines.append(
            f"| {one['label']} | {1e4 * one['measured']:.3g} | {1e4 * one['predicted']:.3g} "
            f"| {1e2 * one['output_error']:.2g} |"
        )
    second = (
        "All inputs of the blocks on grids: the same measured error of the predictions, and that of static grids as "
        "1. Intervals are of the bootstrap over pictures; those of two pictures are hardly more than their two values."
    )
    third = (
        f"Mean squared error of the final latents of {args.prompts} pictures that are drawn from the same noise, its "
        "95 % interval, and the ratio to static grids. A few pictures in which an object moves decide the mean."
    )
    parts = [
        "# What errors of the activations cost, predicted and measured",
        _wrapped(about),
        f"![Predicted against measured damage]({args.out.with_suffix('.png').name})",
        "## Grids by damage",
        _wrapped(second),
        _table(rows, "replayed"),
        _wrapped(third),
        _table(rows, "drawn"),
        "## Each input alone",
        _wrapped(first),
        "\n".join(lines),
    ]
    write_text(args.out, "\n\n".join(parts) + "\n")
    print(f"{len(inputs)} inputs: {args.out}")


def _table(rows: dict[str, dict[str, dict]], measure: str) -> str:
    """The methods by one measure, those that have it."""
    lines = ["| bits | grids | error, 95 % | predicted | to static, 95 % |", "|---|---|--:|--:|--:|"]
    for bits, methods in rows.items():
        for name, row in methods.items():
            if measure not in row:
                continue
            errors, static = np.array(row[measure]), np.array(methods["static"][measure])
            low, high = (1e4 * end for end in _interval(errors))
            least, most = _ratio_interval(errors, static)
            said = f"{1e4 * row['predicted']:.3g}" if "predicted" in row else ""
            ratio = f"{errors.mean() / static.mean():.2f} ({least:.2f} to {most:.2f})"
            mean = f"{1e4 * errors.mean():.3g} ({low:.3g} to {high:.3g})"
            lines.append(f"| {bits} | {name} | {mean} | {said} | {'1' if name == 'static' else ratio} |")
    return "\n".join(lines)


def _agreement(values: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """The correlation of logarithms, and of ranks."""
    ranks = [np.argsort(np.argsort(one)) for one in (values, measured)]
    return float(np.corrcoef(np.log(values), np.log(measured))[0, 1]), float(np.corrcoef(*ranks)[0, 1])


def _resampled(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (SAMPLES, count))


def _interval(errors: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean."""
    low, high = np.quantile(errors[_resampled(len(errors))].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _ratio_interval(errors: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The same of the ratio of two means over the same pictures."""
    rows = _resampled(len(errors))
    low, high = np.quantile(errors[rows].mean(axis=1) / reference[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118, break_on_hyphens=False)


if __name__ == "__main__":
    main()
