"""`scripts/generate_samples.py --compare`: the float model's pictures and a quantized one's, side by side."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ditq import checkpoint
from ditq.checkpoint import QuantizedModel
from ditq.cli.generate import Job, draw_jobs, plan, remaining, weights_of
from ditq.cli.given import model_from, prompts_from, settings_from
from ditq.cli.output import say, tell
from ditq.core.files import lock, read_image, write_figure
from ditq.evaluation import fingerprint_of
from ditq.evaluation.metrics import psnr
from ditq.models import TextToImage
from ditq.sampling.generate import Settings

FLOAT, QUANTIZED = "float", "quantized"
ROWS = 12
"""Prompts on one sheet."""


def compare(args: argparse.Namespace) -> None:
    """Writes float/ and quantized/, a picture per prompt, and comparison_01.png and on with both and their PSNR."""
    prompts = prompts_from(args)
    model = model_from(args)
    settings = settings_from(args, model)
    made = checkpoint.load(args.checkpoint or Path("quantized_model"))
    quantized = QuantizedModel(model, made, made.activations is not None)
    jobs = {FLOAT: _jobs(args, FLOAT, model, settings, prompts, FLOAT)}
    jobs[QUANTIZED] = _jobs(args, QUANTIZED, model, settings, prompts, fingerprint_of(made))
    todo = {name: remaining(own, args.force, args.resume) for name, own in jobs.items()}
    if args.dry_run:
        waiting = ", ".join(f"{len(own)} {name}" for name, own in todo.items())
        facts = {"pictures": {name: len(own) for name, own in todo.items()}, "steps": settings.steps}
        tell(
            args,
            {**facts, "output": str(args.out)},
            f"pictures to draw: {waiting}, {settings.steps} steps; sheets of {ROWS} prompts: {args.out}",
        )
        return
    started = time.perf_counter()
    with lock(args.out):
        for name, opened in ((FLOAT, model), (QUANTIZED, quantized)):
            draw_jobs(opened, todo[name], settings, args.batch_size)
        pictures = {name: np.stack([read_image(job.path)[0] for job in own]) for name, own in jobs.items()}
        scores = [psnr(one, two) for one, two in zip(pictures[FLOAT], pictures[QUANTIZED], strict=True)]
        sheets = _sheets(args.out, pictures, prompts, scores)
    seconds = time.perf_counter() - started
    if args.json:
        found = [{"prompt": prompt, "psnr": score} for prompt, score in zip(prompts, scores, strict=True)]
        facts = {"pictures": found, "sheets": [str(sheet) for sheet in sheets], "seconds": round(seconds, 3)}
        say(json.dumps(facts, ensure_ascii=False))
        return
    count = f"{len(prompts)} {'prompt' if len(prompts) == 1 else 'prompts'}"
    files = f"{sheets[0]}{f' ... {sheets[-1].name}' if len(sheets) > 1 else ''}"
    say(
        f"{count}, median PSNR {np.median(scores):.1f} dB (least {min(scores):.1f}), {seconds:.1f} s: {files}"
    )


def _jobs(
    args: argparse.Namespace,
    name: str,
    model: TextToImage,
    settings: Settings,
    prompts: list[str],
    transformer: str,
) -> list[Job]:
    """The jobs of one model in its own folder; its pictures say which transformer drew them."""
    there = argparse.Namespace(out=args.out / name, seed=args.seed)
    return plan(there, model, settings, prompts, {"transformer": transformer, **weights_of(args)})


def _sheets(
    out: Path,
    pictures: dict[str, UInt8[np.ndarray, "prompts height width 3"]],
    prompts: list[str],
    scores: list[float],
) -> list[Path]:
    """Writes the sheets; their paths."""
    from ditq.plots.comparison import picture_grid  # matplotlib takes a second

    paths = []
    for start in range(0, len(prompts), ROWS):
        rows = slice(start, start + ROWS)
        paths.append(out / f"comparison_{start // ROWS + 1:02d}.png")
        shown = {name: own[rows] for name, own in pictures.items()}
        write_figure(paths[-1], picture_grid(shown, prompts[rows], {QUANTIZED: scores[rows]}))
    return paths
