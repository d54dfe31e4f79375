"""`python -m src.analyze_activations`: step 3A, bits, grids and channel factors for every layer and timestep."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.activations import (
    ActivationMethod,
    Decision,
    Static,
    Weights,
    described,
    observed_ranges,
    temporal_analysis,
    write_quant_config,
)
from ditq.cli import values
from ditq.cli.activation_flags import add_bit_flags, add_grid_flags, method_from
from ditq.cli.flags import (
    CALIBRATION,
    add_file,
    add_model_path,
    add_run_flags,
    refuse_overwriting,
)
from ditq.cli.forecasts import decision_cost, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.files import lock, write_figure, write_json
from ditq.diagnostics import LayerStatistics, ObservedInput, read_damage, read_layer_statistics
from ditq.models.probe import probe_alone

TEMPORAL = "layer_temporal_analysis.json"


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and decides."""
    flags = parser(
        "Decide the bits, the static grid, the shift and the channel factors of every layer's input at every timestep.",
        "python -m src.analyze_activations --stats calibration_data/activations/layer_statistics.json",
    )
    place = Path(CALIBRATION) / "activations" / "layer_statistics.json"
    flags.add_argument(
        "--stats",
        type=values.file,
        default=place,
        metavar="FILE",
        help=f"what collect_layer_activations wrote (default: {place})",
    )
    flags.add_argument(
        "--output",
        "--out",
        type=values.file,
        metavar="FILE",
        help="default: quant_config.json beside --stats",
    )
    text = (
        "choose grids and bits by what errors cost at the end of the trajectory, as measure_damage found it"
    )
    add_file(flags, "--damage", None, f"{text} (default: by the error of each layer's output)")
    add_bit_flags(flags)
    add_grid_flags(flags)
    group = flags.add_argument_group(
        "model (named by the statistics; read only where a layer has isolated spikes)"
    )
    add_model_path(group)
    group = add_run_flags(flags, resume=False)
    group.add_argument("--no-plots", action="store_true", help="write no figures")
    args = flags.parse_args(argv)
    run(lambda: analyze(args), args)


def analyze(args: argparse.Namespace) -> None:
    """Writes the config, the temporal analysis and the figures, and prints what was decided."""
    output: Path = args.output or args.stats.with_name("quant_config.json")
    for path in (output, temporal_of(output)):
        refuse_overwriting(path, args)
    method = method_from(args)
    statistics = read_layer_statistics(args.stats)
    if args.damage is not None:
        damage = read_damage(args.damage)
        damage.check(statistics, str(args.damage))
        method = method.by_damage(damage)
    if args.dry_run:
        steps = 1 if isinstance(method, Static) else len(statistics.steps)
        layers, inputs = len(statistics.layers), len(statistics.groups)
        first = statistics.at(statistics.steps[0])
        observed = [ObservedInput.of(path, found) for path, found in first.items()]
        cost = decision_cost(method, observed, layers, len(statistics.steps), 0 if args.no_plots else 3)
        told = told_of(probe_alone(), cost)
        facts = {"layers": layers, "inputs": inputs, "timesteps": steps, **told.facts, "output": str(output)}
        tell(
            args,
            facts,
            f"would decide {layers} layers ({inputs} inputs) x {steps} timesteps: {told} in {output}",
        )
        return
    started = time.perf_counter()

    def weights(paths: list[str]) -> dict[str, mx.array]:
        network = model_from(args, statistics.manifest["model"]).network()
        layers = network.anatomy.modules(network)
        return {path: layers[path].weight for path in paths}

    with lock(output.parent), Progress(len(statistics.steps), "timestep", "analysis") as bar:
        written = write_decision(method, statistics, output, weights, not args.no_plots, bar.advance)
    _report(args, output, *written, time.perf_counter() - started)


def temporal_of(output: Path) -> Path:
    """Where the temporal analysis of a config lies: TEMPORAL beside quant_config.json, with its name beside others."""
    same = output.name == "quant_config.json"
    return output.with_name(TEMPORAL if same else f"{output.stem}_{TEMPORAL}")


def write_decision(
    method: ActivationMethod,
    statistics: LayerStatistics,
    output: Path,
    weights: Weights,
    plots: bool = True,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Writes the config, the temporal analysis and the figures; the summary, that analysis, and how many figures."""
    decision = method.decide(statistics, weights, on_step)
    summary = summary_of(statistics, decision)
    write_quant_config(output, statistics, decision, {"method": described(method), "summary": summary})
    ranges = observed_ranges(statistics, decision)
    analysed = temporal_analysis(decision.bits, ranges, decision.scales, decision.steps)
    write_json(temporal_of(output), {**analysed, "sigma_map": statistics.manifest["sigma_map"]})
    return summary, analysed, len(draw(statistics, decision, output)) if plots else 0


def summary_of(statistics: LayerStatistics, decision: Decision) -> dict[str, Any]:
    """Counts over layers and timesteps; average bits per activation value, a shared input counted once."""
    sizes = {}
    for source, found in statistics.at(statistics.steps[0]).items():
        sizes[source] = found.count * len(found.abs_min)
    weighted = sum(sizes[source] * float(np.mean(bits)) for source, bits in decision.bits.items())
    cells = [b for source, paths in statistics.groups.items() for b in decision.bits[source] * len(paths)]
    kinds = list(decision.kinds.values())
    predicted = [one["predicted_damage"] for one in decision.reports.values() if "predicted_damage" in one]
    return {
        "layers": len(statistics.layers),
        "inputs": len(statistics.groups),
        "timesteps": len(decision.steps),
        "average_bits": round(weighted / sum(sizes.values()), 4),
        "bits": {f"A{b}": cells.count(b) for b in sorted(set(cells))},
        "shift_kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "smoothed_inputs": len(decision.smooth),
        **({"predicted_damage": sum(predicted)} if predicted else {}),
    }


def draw(statistics: LayerStatistics, decision: Decision, output: Path) -> list[str]:
    """Writes the figures beside the config; their names."""
    from ditq.plots.decisions import decision_figures  # matplotlib takes a second

    folder, names = output.with_name(f"{output.stem}_plots"), []
    for name, figure in decision_figures(statistics, decision):
        write_figure(folder / f"{name}.png", figure)
        names.append(name)
    return names


def _report(
    args: argparse.Namespace,
    output: Path,
    summary: Mapping[str, Any],
    analysed: Mapping[str, Any],
    figures: int,
    seconds: float,
) -> None:
    switching, always = len(analysed["switching_layers"]), len(analysed["always_a8_layers"])
    if args.json:
        facts = {"output": str(output), **summary, "switching_layers": switching, "always_a8_layers": always}
        say(json.dumps({**facts, "figures": figures, "seconds": round(seconds, 3)}))
        return
    bits = ", ".join(f"{count} {name}" for name, count in summary["bits"].items())
    damage = summary.get("predicted_damage")
    predicted = "" if damage is None else f"predicted mean squared error of the latents {damage:.3g}, "
    say(
        f"{summary['layers']} layers x {summary['timesteps']} timesteps: {bits} ({summary['average_bits']:.2f} bits on "
        f"average), {switching} inputs switch, {summary['smoothed_inputs']} smoothed, {predicted}{figures} figures, "
        f"{seconds:.1f} s: {output}"
    )
