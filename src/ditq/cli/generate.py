"""`python -m src.generate`: prompts to PNG files."""

import argparse
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ditq
from ditq import checkpoint
from ditq.checkpoint import QuantizedModel
from ditq.cli import values
from ditq.cli.flags import (
    add_batch_size,
    add_model_flags,
    add_out,
    add_prompt_flags,
    add_run_flags,
    add_sampler_flags,
)
from ditq.cli.forecasts import drawing_cost, machine_for_pictures, told_of
from ditq.cli.given import model_from, prompts_from, settings_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import lock, read_image, write_png
from ditq.evaluation import fingerprint_of
from ditq.models import TextToImage
from ditq.models.digest import weights_digest
from ditq.sampling.generate import Settings, generate


@dataclass(frozen=True)
class Job:
    """One picture to make: where it goes, and the text that its PNG will carry."""

    path: Path
    prompt: str
    seed: int
    metadata: dict[str, str]


def main(
    argv: list[str] | None = None,
    example: str = 'python -m src.generate --model mini "a fox in the snow" --out pictures',
) -> None:
    """Parses the flags and draws the pictures; the help ends with this example."""
    flags = parser(
        "Draw pictures from prompts and write them as PNG files, each with its prompt, seed and settings inside.",
        example,
    )
    add_prompt_flags(flags)
    add_model_flags(flags, default="mini")
    add_sampler_flags(flags)
    add_batch_size(flags)
    add_out(flags, "pictures", "folder (default: pictures)")
    group = flags.add_argument_group("quantized model")
    group.add_argument(
        "--compare",
        action="store_true",
        help="draw with the float model and with a quantized one, and put them side by side",
    )
    group.add_argument(
        "--checkpoint",
        type=values.folder,
        metavar="DIR",
        help="draw with this quantized model, alone or with --compare (there the default: quantized_model)",
    )
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: compared(args) if args.compare else draw(args), args)


def compared(args: argparse.Namespace) -> None:
    """Writes the pictures of both models, and their comparison."""
    from ditq.cli.generate_compared import compare

    compare(args)


def draw(args: argparse.Namespace) -> None:
    """Writes the pictures that are not there yet, and prints where they are."""
    prompts = prompts_from(args)
    model = model_from(args)
    settings = settings_from(args, model)
    drawn_with, transformer = _with_checkpoint(args, model)
    jobs = plan(args, model, settings, prompts, transformer)
    todo = remaining(jobs, args.force, args.resume)
    if args.dry_run:
        forecast(args, model, settings, todo)
        return
    started = time.perf_counter()
    with lock(args.out):
        draw_jobs(drawn_with, todo, settings, args.batch_size)
    seconds = time.perf_counter() - started
    if args.json:
        found = [{"path": str(job.path), "prompt": job.prompt, "seed": job.seed} for job in jobs]
        say(
            json.dumps(
                {"pictures": found, "drawn": len(todo), "seconds": round(seconds, 3)}, ensure_ascii=False
            )
        )
        return
    kept = f", {len(jobs) - len(todo)} kept" if len(todo) < len(jobs) else ""
    size = f"{settings.width}x{settings.height}"
    last = f" ... {jobs[-1].path.name}" if len(jobs) > 1 else ""
    say(f"{len(todo)} drawn{kept}, {size}, {settings.steps} steps, {seconds:.1f} s: {jobs[0].path}{last}")


def _with_checkpoint(args: argparse.Namespace, model: TextToImage) -> tuple[TextToImage, dict[str, str]]:
    """The model to draw with, and what pictures say of its transformer: nothing without --checkpoint."""
    if args.checkpoint is None:
        return model, weights_of(args)
    made = checkpoint.load(args.checkpoint)
    if made.model != model.name:
        got, remedy = f"a checkpoint of {made.model}", f"give --model {made.model}"
        raise UserError(str(args.checkpoint), got=got, expected=f"one of {model.name}", remedy=remedy)
    opened = QuantizedModel(model, made, made.activations is not None)
    return opened, {"transformer": fingerprint_of(made), **weights_of(args)}


def weights_of(args: argparse.Namespace) -> dict[str, str]:
    """What pictures say of the float weights, so that --resume never mixes two: a digest, where they are the user's."""
    if args.model_path is None:
        return {}
    # of a model that is not kept: text encoders and network shall not lie in memory together
    return {"weights": weights_digest(model_from(args).network())}


def draw_jobs(model: TextToImage, jobs: list[Job], settings: Settings, batch_size: int) -> None:
    """Draws and writes the pictures under a progress bar; each is written when its batch is done."""
    if not jobs:
        return
    words, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    with Progress(math.ceil(len(jobs) / batch_size) * settings.steps, "step", model.name) as bar:
        pictures = generate(model, words, seeds, settings, batch_size, bar.advance)
        for job, picture in zip(jobs, pictures, strict=True):
            write_png(job.path, picture, job.metadata)


def plan(
    args: argparse.Namespace,
    model: TextToImage,
    settings: Settings,
    prompts: list[str],
    transformer: Mapping[str, str],
) -> list[Job]:
    """One job per prompt; picture i has seed `--seed` + i, so that it can be drawn again by itself."""
    common = {
        "model": model.name,
        **settings.as_text(),
        "software": f"ditq {ditq.__version__}",
        **transformer,
    }
    jobs = []
    for i, prompt in enumerate(prompts):
        seed = args.seed + i
        jobs.append(
            Job(
                args.out / f"{i:04d}_{slug(prompt)}.png",
                prompt,
                seed,
                {"prompt": prompt, "seed": str(seed), **common},
            )
        )
    return jobs


def slug(prompt: str) -> str:
    """The prompt as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "picture"


def remaining(jobs: list[Job], force: bool, resume: bool) -> list[Job]:
    """The jobs still to be drawn. Raises UserError when a picture is there, or (resuming) was drawn otherwise."""
    there = [job for job in jobs if job.path.exists()]
    if force or not there:
        return jobs
    if not resume:
        raise UserError(
            str(there[0].path),
            got="a file from an earlier run",
            remedy="use --resume, --force or another --out",
        )
    for job in there:
        text = read_image(job.path)[1]
        for field in dict.fromkeys((*job.metadata, "transformer", "weights")):
            got, wanted = text.get(field), job.metadata.get(field)
            if field != "software" and got != wanted:
                told = f"{field} {got!r}" if got is not None else f"no {field}"
                expected = repr(wanted) if wanted is not None else "none"
                raise UserError(
                    str(job.path), got=told, expected=expected, remedy="use --force or another --out"
                )
    return [job for job in jobs if job not in there]


def forecast(args: argparse.Namespace, model: TextToImage, settings: Settings, todo: list[Job]) -> None:
    """Prints what a run would compute and need; no weights are loaded for it."""
    size = f"{settings.width}x{settings.height}"
    told = told_of(
        machine_for_pictures(model, settings, min(args.batch_size, max(1, len(todo)))),
        drawing_cost(settings, len(todo), args.batch_size),
    )
    facts = {"model": model.name, "steps": settings.steps, "pictures": len(todo), **told.facts}
    tell(
        args,
        {**facts, "output": str(args.out)},
        f"pictures to draw: {len(todo)} of {size} with {model.name}, "
        f"{settings.steps} steps, {args.batch_size} at once\n"
        f"{told} of PNG in {args.out}",
    )
