"""`python -m src.run_pipeline`: all steps of the W4A8 pipeline in order, both tracks, then a page that compares."""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ditq.cli import values
from ditq.cli.flags import (
    add_group_size,
    add_model_flags,
    add_numbers,
    add_out,
    add_run_flags,
    add_sampler_flags,
    group_size,
    refuse_begun,
)
from ditq.cli.folders import begun
from ditq.cli.forecasts import duration, machine_for_pictures, told_of
from ditq.cli.given import model_from, settings_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.pipeline import CONTENTS, Pipeline
from ditq.cli.pipeline_forecast import pipeline_costs
from ditq.cli.run import run
from ditq.cli.stages import Finished, facts, finish
from ditq.core.cost import Cost
from ditq.core.recipe import FLOAT, Recipe, read_recipe
from ditq.core.spec import Spec
from ditq.quantization import check_storable
from ditq.quantization.amounts import QUICK, Amounts, amounts_for

FLAGS = {
    "images": ("--images", "calibration pictures"),
    "cache_images": ("--cache-images", "of them, those that blocks are reconstructed on"),
    "cache_stride": ("--cache-stride", "every so many timesteps of those"),
    "statistics_images": ("--statistics-images", "of them, those that activation grids are made from"),
    "statistics_stride": ("--statistics-stride", "every so many timesteps of those"),
    "iterations": ("--iters", "AdaRound's iterations per block"),
    "tuning": ("--tuning", "steps of the last pass over scales and biases, 0: none"),
    "prompts": ("--prompts", "prompts on which variants are compared"),
    "batch_size": ("--batch-size", "pictures at once"),
}


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and runs the steps."""
    flags = parser(
        "Calibrate, quantize and compare: from a float model to a W4A8 checkpoint and a page of same-seed pictures.",
        "python -m src.run_pipeline --model mini --out pipeline",
    )
    add_out(flags, meaning="where everything goes", required=True)
    group = flags.add_argument_group("amounts (default: by the model, as --dry-run tells)")
    for flag, meaning in FLAGS.values():
        names = [flag, "--num-images"] if flag == "--images" else [flag]
        least = 0 if flag == "--tuning" else 1
        group.add_argument(*names, type=values.whole(flag, least), metavar="N", help=meaning)
    group.add_argument("--quick", action="store_true", help="least amounts: a look at the whole")
    group = flags.add_argument_group("grids")
    add_numbers(group, {"--bits-w": (4, "weights, 2 to 8")})
    add_group_size(group)
    group.add_argument(
        "--bits-a",
        default="8",
        choices=["4", "5", "6", "7", "8", "tiers", "error"],
        help="layers' inputs: the same for all, by size, or by error under a budget (default: 8)",
    )
    group.add_argument(
        "--smooth",
        default="none",
        choices=["foldable", "none"],  # factors of all layers cannot be exported
        help="channel factors where adaLN, which then stays in 16 bits, can take them in (default: none)",
    )
    add_sampler_flags(flags)
    add_model_flags(flags, default="mini")
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: pipeline(args), args)


def pipeline(args: argparse.Namespace) -> None:
    """Runs what is not finished, a line per step."""
    from ditq.cli.pipeline_page import draw_page

    asked = pipeline_from(args)
    check_storable(asked.model.skeleton(), replace(asked.recipe, activations={"smooth": args.smooth}))
    steps = [*asked.steps(), ("comparison_page", partial(draw_page, asked))]
    refuse_begun(asked.folder / "pipeline.json", args)
    if args.dry_run:
        forecast(args, asked, [name for name, _ in steps])
        return
    with begun(asked.folder, "pipeline.json", CONTENTS if args.force else None):
        finished = _finish(args, asked, steps)
    seconds = sum(step.seconds for step in finished)
    page = asked.folder / "comparison.html"
    if args.json:
        told = {
            "output": str(page),
            "model": asked.model.name,
            "steps": facts(finished),
            "seconds": round(seconds, 1),
        }
        say(json.dumps(told))
        return
    verdict = next(step.line for step in finished if step.name == "evaluate")
    say(f"{verdict}; {seconds:.0f} s in all: {page}")


def _finish(
    args: argparse.Namespace, asked: Pipeline, steps: list[tuple[str, Callable[[], str]]]
) -> list[Finished]:
    """Runs the steps, a line each."""
    asked.begin(args.resume)
    finished: list[Finished] = []
    for number, step in enumerate(finish(asked.folder, steps), start=1):
        finished.append(step)
        if not args.json:
            seconds = f"{step.seconds:.1f} s" if step.anew else "finished before"
            say(f"{number}/{len(steps)} {step.name}: {step.line}, {seconds}")
    return finished


def pipeline_from(args: argparse.Namespace) -> Pipeline:
    """The pipeline that the flags name."""
    model = model_from(args)
    amounts = amounts_for(args.model, args.quick)
    given = {name: getattr(args, flag[2:].replace("-", "_")) for name, (flag, _) in FLAGS.items()}
    amounts = replace(amounts, **{name: value for name, value in given.items() if value is not None})
    if args.quick and all(
        given.get(name) is not None for name in (*QUICK, "iterations", "tuning", "prompts")
    ):
        without_effect(args, "where every amount is given", "quick")
    for name in ("cache_images", "statistics_images"):
        if given[name] is not None and given[name] > amounts.images:
            warnings.warn(
                f"{FLAGS[name][0]} {given[name]}: all {amounts.images} pictures are taken", stacklevel=2
            )
    fewer = {
        name: min(getattr(amounts, name), amounts.images) for name in ("cache_images", "statistics_images")
    }
    args.steps = amounts.steps if args.steps is None else args.steps
    args.cfg_weight = amounts.cfg_weight if args.cfg_weight is None else args.cfg_weight
    amounts = replace(amounts, **fewer, steps=args.steps, cfg_weight=args.cfg_weight)
    return Pipeline(
        model=model,
        settings=settings_from(args, model),
        amounts=amounts,
        recipe=pipeline_recipe(Spec(args.bits_w, group_size=group_size(args)), amounts, args.smooth),
        bits_a=int(args.bits_a) if args.bits_a.isdigit() else args.bits_a,
        smooth=args.smooth,
        seed=args.seed,
        loaded={name: getattr(args, name) for name in ("dtype", "text_encoders")},
        folder=args.out,
    )


def pipeline_recipe(spec: Spec, amounts: Amounts, smooth: str) -> Recipe:
    """The preset w4a8-adaround with the blocks on this grid, and without activations, which have a step of their own.

    Factors of channels are multiplied into adaLN, which stays float where there are some.
    """
    preset = read_recipe("w4a8-adaround")
    *kept, blocks = preset.rules
    if smooth != "none":
        why = "takes the channel factors of the inputs"
        kept = [
            replace(rule, method=FLOAT, spec=None, why=why) if rule.roles == ("modulation",) else rule
            for rule in kept
        ]
    methods = {**preset.methods, "adaround": {"iterations": amounts.iterations}}
    return replace(
        preset,
        name="of run_pipeline",
        rules=(*kept, replace(blocks, spec=spec)),
        methods=methods,
        activations=None,
        tuning={"steps": amounts.tuning} if amounts.tuning else None,
    )


def forecast(args: argparse.Namespace, asked: Pipeline, names: list[str]) -> None:
    """Says what would be computed: of the steps that are not finished, the sum."""
    amounts, steps = asked.amounts, asked.settings.steps
    done = [name for name in names if (asked.folder / "steps" / f"{name}.json").exists() and args.resume]
    costs = {name: cost for name, cost in pipeline_costs(asked).items() if name not in done}
    machine = machine_for_pictures(asked.model, asked.settings, amounts.batch_size)
    told = told_of(machine, sum(costs.values(), Cost()))
    seconds = {name: round(machine.speed.seconds(cost), 1) for name, cost in costs.items()}
    facts = {"model": asked.model.name, "steps": names, "finished": done, "amounts": vars(amounts)}
    lines = [f"{asked.model.name} to {asked.label}, {len(names)} steps: {', '.join(names)}"]
    if done:
        lines.append(f"finished before: {', '.join(done)}")
    lines += [
        f"{amounts.images} trajectories of {steps} steps; grids from {amounts.statistics_images} pictures, "
        f"blocks from {amounts.cache_images}, {amounts.iterations} iterations each; {amounts.tuning} steps of tuning; "
        f"{amounts.prompts} prompts compared",
        ", ".join(f"{name} {duration(count)}" for name, count in seconds.items()),
        f"{told} in {asked.folder}",
    ]
    tell(args, {**facts, **told.facts, "seconds_by_step": seconds}, "\n".join(lines))
