"""`python -m src.evaluate`: quantized checkpoints against the float model, and whether they keep the limits given."""

import argparse
import json
import time
import warnings
from dataclasses import dataclass

from ditq.cli.evaluation_flags import PICTURES, evaluate_flags
from ditq.cli.evaluation_outputs import CONTENTS, write_outputs
from ditq.cli.evaluation_sets import SetJob, set_job
from ditq.cli.forecasts import (
    figures_cost,
    kept_pictures_cost,
    machine_for_pictures,
    on_grid_cost,
    told_of,
)
from ditq.cli.given import model_from, prompts_in, settings_from
from ditq.cli.output import say, tell
from ditq.cli.progress import Bars
from ditq.cli.run import run
from ditq.core.cost import Cost
from ditq.core.errors import DitqError, UserError
from ditq.core.files import lock, remove
from ditq.evaluation import (
    FLOOR,
    EvalReport,
    Variant,
    evaluate,
    evaluation_prompts,
    float_variant,
    markdown,
    measure_along_trajectories,
    rows,
    units,
)
from ditq.evaluation.attributes import AttributeScore, attribute_scores, judge_of
from ditq.evaluation.cost import DrawingCost, Machine, measured_cost, store_cost, stored_cost
from ditq.evaluation.flat_field import FlatField, flat_field, step_counts
from ditq.evaluation.full_report import Evaluation, verdict
from ditq.evaluation.gate import LIMITS, failures
from ditq.evaluation.metrics import metrics_named
from ditq.evaluation.subjects import Subject, check_disjoint, read_subjects
from ditq.evaluation.trajectory_curves import Curves
from ditq.models import TextToImage
from ditq.models.cost import parameter_count
from ditq.sampling.generate import Settings


class GateFailed(DitqError):
    """A checkpoint did not keep a limit; the report is written all the same."""


@dataclass(frozen=True)
class Job:
    """What a run is to compute."""

    model: TextToImage
    subjects: list[Subject]
    prompts: list[str]
    seeds: list[int]
    settings: Settings
    metrics: list[str]
    limits: dict[str, float]
    sets: SetJob

    @property
    def variants(self) -> list[Variant]:
        """The float model, then those of every checkpoint."""
        return [float_variant(self.model), *(one for subject in self.subjects for one in subject.variants)]


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and measures."""
    example = (
        "python -m src.evaluate --model mini --checkpoint mini-w4a8 --num-prompts 16 --out mini-evaluation"
    )
    args = evaluate_flags(example, str(PICTURES)).parse_args(argv)
    if args.num_images is None:
        args.num_images = PICTURES
    run(lambda: carry_out(args), args)


def carry_out(args: argparse.Namespace) -> None:
    """Measures, writes the report and prints the verdict. Raises GateFailed where a limit was not kept."""
    job = _job(args)
    if any((args.out / name).exists() for name in CONTENTS) and not (args.resume or args.force):
        remedy = "use --resume, --force or another --out"
        raise UserError(str(args.out), got="files of an earlier run", remedy=remedy)
    if args.dry_run:
        _forecast(args, job)
        return
    started = time.perf_counter()
    with lock(args.out):
        if args.force:
            remove(*(args.out / name for name in CONTENTS))
        found = _measured(args, job)
        write_outputs(args.out, found)
    failed = failures(job.limits, found.report, found.curves)
    _print(args, found, failed, time.perf_counter() - started)
    if failed:
        raise GateFailed(f"limits not kept: {'; '.join(failed)}")


def _job(args: argparse.Namespace) -> Job:
    """What the flags ask for, every mistake told before anything is computed."""
    model, count = model_from(args), args.num_images
    settings = settings_from(args, model)
    own = prompts_in(args.prompts_file) if args.prompts_file else evaluation_prompts(model.name)
    if args.prompts_file and len(own) > count:
        warnings.warn(
            f"{args.prompts_file}: {count} of its {len(own)} prompts are drawn (--num-prompts)", stacklevel=2
        )
    prompts = [own[i % len(own)] for i in range(count)]
    limits = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    if "max_velocity_error" in limits and not args.num_trajectories:
        raise UserError(
            "--max-velocity-error", got="--num-trajectories 0", expected="1 or more to measure it on"
        )
    wanted = [metric for name in limits if (metric := LIMITS[name].metric)]
    metrics = list(dict.fromkeys([*args.metrics, *wanted]))
    metrics_named(metrics)
    subjects = read_subjects(args.checkpoint, model)
    check_disjoint(prompts, subjects)
    sets = set_job(args.reference, model, settings, count)
    seeds = [args.seed + i for i in range(count)]
    return Job(model, subjects, prompts, seeds, settings, metrics, limits, sets)


def _measured(args: argparse.Namespace, job: Job) -> Evaluation:
    """Everything, part after part, each kept in the folder as it is finished."""
    pictures, variants = len(job.prompts), job.variants
    with Bars() as bars:
        reference = job.sets.reference(args.out)  # refused before anything is drawn
        costs = _costs(args, job, bars)
        total = (len(variants) + 1) * pictures
        report: EvalReport = evaluate(
            job.model,
            variants,
            job.prompts,
            job.seeds,
            job.settings,
            args.out / "pictures",
            args.batch_size,
            job.metrics,
            lambda count: bars.advance("pictures", count, total),
        )
        curves = _curves(args, job, bars)
        flat = _flat(args, job, bars)
        names = [variant.name for variant in variants]
        sets = job.sets.scores(
            args.out, names, reference, lambda count: bars.advance("features", count, total)
        )
    return Evaluation(
        report,
        job.subjects,
        parameter_count(job.model.skeleton()),
        curves,
        flat,
        costs,
        Machine.here(),
        attributes=_attributes(args, job),
        sets=sets,
        reference=None if args.reference is None else str(args.reference),
    )


def _attributes(args: argparse.Namespace, job: Job) -> list[AttributeScore]:
    judge = judge_of(job.model, job.settings)
    if judge is None:
        return []
    names = [*(variant.name for variant in job.variants), FLOOR]
    return attribute_scores(judge, job.prompts, args.out / "pictures", names[0], names)


def _costs(args: argparse.Namespace, job: Job, bars: Bars) -> list[DrawingCost]:
    """The costs of every variant, checkpoints before the float model: its weights are not in memory yet."""
    if not args.num_timed:
        return []
    found: dict[str, DrawingCost] = {}
    float_one, *others = job.variants
    owners = {variant.name: subject for subject in job.subjects for variant in subject.variants}
    for variant in [*sorted(others, key=lambda one: not owners[one.name].whole), float_one]:
        path = args.out / "cost" / f"{variant.slug}.json"
        key = [
            job.model.name,
            str(job.model.dtype),
            variant.fingerprint,
            repr(job.settings.recorded()),
            str(args.num_timed),
        ]
        cost = stored_cost(path, key)
        if cost is None:
            subject = owners.get(variant.name)
            model = job.model if subject is None else subject.opened(model_from(args), variant)
            alone = subject is None or subject.whole
            timed = (variant.name, model, job.prompts[0], args.seed, job.settings, args.num_timed, alone)
            cost = measured_cost(*timed)
            store_cost(path, key, cost)
        found[variant.name] = cost
        bars.advance("time and memory", 1, len(others) + 1)
    return [found[variant.name] for variant in job.variants]


def _curves(args: argparse.Namespace, job: Job, bars: Bars) -> list[Curves]:
    count = min(args.num_trajectories, len(job.prompts))
    if not count:
        return []
    variants = job.variants[1:]
    total = units(len(variants), count)
    return measure_along_trajectories(
        job.model,
        variants,
        job.prompts[:count],
        job.seeds[:count],
        job.settings,
        args.out / "trajectories",
        lambda done: bars.advance("trajectories", done, total),
    )


def _flat(args: argparse.Namespace, job: Job, bars: Bars) -> list[FlatField]:
    if not args.num_flat:
        return []
    seeds = [args.seed + i for i in range(args.num_flat)]
    total = len(step_counts(job.settings)) * len(job.variants) * args.num_flat
    return flat_field(
        job.model,
        job.variants,
        seeds,
        job.settings,
        args.out / "flat_field",
        args.batch_size,
        lambda done: bars.advance("flat pictures", done, total),
    )


def _forecast(args: argparse.Namespace, job: Job) -> None:
    """Says what would be computed, in pictures of as many steps as were asked for."""
    variants, steps, pictures = len(job.variants), job.settings.steps, len(job.prompts)
    flat = sum(step_counts(job.settings)) / steps * variants * args.num_flat
    along = min(args.num_trajectories, pictures) * (1 + 2 * (variants - 1))
    timed = (args.num_timed + 1) * variants if args.num_timed else 0
    runs = round((variants + 1) * pictures + along + flat + timed)
    machine = machine_for_pictures(job.model, job.settings, args.batch_size)
    kept = kept_pictures_cost(job.model, job.settings, (variants + 1) * pictures, args.batch_size)
    others = Cost(rows=kept.rows / ((variants + 1) * pictures)).times(runs - (variants + 1) * pictures)
    share = (variants - 1) / (variants + 1)
    told = told_of(
        machine, kept + others + on_grid_cost(job.model, job.settings, round(share * runs)) + figures_cost(4)
    )
    facts = {
        "pictures": pictures,
        "variants": [one.name for one in job.variants],
        "runs": runs,
        "output": str(args.out),
        **told.facts,
    }
    text = (
        f"would draw {pictures} pictures of {steps} steps with each of {variants} variants, and again with the float "
        f"model; with trajectories, flat pictures and timing {runs:,} runs of {steps} steps\n{told} in {args.out}"
    )
    tell(args, facts, text)


def _print(args: argparse.Namespace, found: Evaluation, failed: list[str], seconds: float) -> None:
    if args.json:
        facts = {"output": str(args.out), "seconds": round(seconds, 1), "failed": failed}
        say(json.dumps({**facts, **found.as_json()}))
        return
    say(markdown(rows(found.report)))
    for subject in found.subjects:
        say(verdict(found, subject))
    gate = f", {len(failed)} limits not kept" if failed else ""
    say(f"{len(found.report.prompts)} pictures{gate}, {seconds:.1f} s: {args.out / 'index.html'}")
