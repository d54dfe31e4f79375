"""Trains the embedded text-to-image model `mini` from nothing: data, transformer, decoder, export.

    python scripts/train_mini.py data --out mini-run         # render the pictures, fit the linear code
    python scripts/train_mini.py flow --out mini-run         # the transformer; resumes after an interruption
    python scripts/train_mini.py decoder --out mini-run      # crisp pictures from latents
    python scripts/train_mini.py classifier --out mini-run   # the judge of the quality gate
    python scripts/train_mini.py gate --out mini-run         # held-out prompts, judged; a grid of 64 pictures
    python scripts/train_mini.py export --out mini-run       # the file that the package ships (needs ditq)

Each step writes into the folder `--out` and reads what the steps before it left there.
Needs PyTorch, diffusers, Pillow, resvg-py (and npm for the emoji): none of it is needed to use the model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from mini import activity, data, flow, gate, icons, nets, pictures, prompts, sample, team


def make_data(args: argparse.Namespace) -> None:
    """Writes `pictures.npy`, `code.npz`, `latents.npy` and an overview."""
    bodies = icons.read_icons(args.icons) if args.icons else icons.fetch_icons()
    data.render(args.out / "pictures.npy", bodies, args.count, args.threads)
    rendered = np.load(args.out / "pictures.npy", mmap_mode="r", allow_pickle=False)
    code = nets.Latents.fit(rendered[::8])
    code.save(args.out / "code.npz")
    parts = [code.encode(part).astype(np.float16) for part in np.array_split(rendered, 64)]
    np.save(args.out / "latents.npy", np.concatenate(parts))
    some = rendered[:64]
    sample.grid(some, 8).save(args.out / "data.png")
    sample.grid(code.decode(code.encode(some)), 8).save(args.out / "data_linear.png")
    print(f"{len(rendered)} pictures in {args.out}")


def load_data(folder: Path) -> tuple[np.ndarray, nets.Latents]:
    """The pictures uint8 [count, 128, 128, 3], left on the disk, and the linear code that `data` wrote."""
    pixels = np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)
    return pixels, nets.Latents.load(folder / "code.npz")


def train_flow(args: argparse.Namespace) -> None:
    """Trains transformer and text encoder until the schedule ends."""
    schedule = flow.Schedule(minutes=args.minutes, steps=args.steps)
    team.run(flow.train, args.workers, args.threads, args.out, schedule)


def train_decoder(args: argparse.Namespace) -> None:
    """Trains the decoder of latents and reports its PSNR."""
    report(args.out, "decoder", pictures.train_decoder(args.out, *load_data(args.out), args.minutes))


def train_classifier(args: argparse.Namespace) -> None:
    """Trains the classifier on rendered and coded pictures and reports its held-out accuracy."""
    report(args.out, "classifier", pictures.train_classifier(args.out, *load_data(args.out), args.minutes))


def judge(args: argparse.Namespace) -> None:
    """Draws held-out prompts and counts what the classifier recognises."""
    options = {name: getattr(args, name) for name in ("steps", "guidance", "shift", "seed")}
    report(args.out, "gate", gate.gate(args.out, options, args.count))


def measure_activity(args: argparse.Namespace) -> None:
    """Measures asymmetry, drift and channel outliers behind every GELU."""
    options = {name: getattr(args, name) for name in ("steps", "guidance", "shift")}
    report(args.out, "activity", activity.activity(args.out, options, args.count))


def export_weights(args: argparse.Namespace) -> None:
    """Writes the float16 weights as one safetensors file and compares it with the trained model."""
    import ditq  # noqa: F401  before MLX, so that it finds a fast BLAS
    from mini.export import export, parity  # the only step that needs ditq and MLX

    report(args.out, "export", export(args.out, args.target) | parity(args.out, args.target))


def write_prompts(args: argparse.Namespace) -> None:
    """Writes the package's prompt lists for calibration and evaluation."""
    report(args.out, "prompts", prompts.write_prompts(args.package))


def draw_curve(args: argparse.Namespace) -> None:
    """Draws the loss of the training over its steps."""
    from mini.curve import draw  # the only step that needs matplotlib

    report(args.out, "curve", draw(args.out))


def report(folder: Path, name: str, scores: dict) -> None:
    """Prints the scores and writes them to `<name>.json`."""
    text = json.dumps(scores, indent=2)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)


STEPS = {
    "data": make_data,
    "flow": train_flow,
    "decoder": train_decoder,
    "classifier": train_classifier,
    "gate": judge,
    "activity": measure_activity,
    "export": export_weights,
    "prompts": write_prompts,
    "curve": draw_curve,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(required=True)
    for name, function in STEPS.items():
        step = steps.add_parser(name, help=(function.__doc__ or "").strip())
        step.set_defaults(run=function)
        step.add_argument("--out", type=Path, default=Path("mini-run"), help="folder of the run")
        step.add_argument("--threads", type=int, default=2, help="CPU threads")
    steps.choices["data"].add_argument("--count", type=int, default=data.COUNT, help="pictures to render")
    steps.choices["data"].add_argument("--icons", type=Path, help="unpacked icons.json instead of `npm pack`")
    steps.choices["flow"].add_argument("--minutes", type=float, default=90.0, help="time to train")
    steps.choices["flow"].add_argument("--steps", type=int, help="steps to train, instead of --minutes")
    steps.choices["flow"].add_argument(
        "--workers", type=int, default=1, help="processes that share batch and threads; 2 on a busy CPU"
    )
    for name in ("decoder", "classifier"):
        steps.choices[name].add_argument("--minutes", type=float, default=16.0, help="time to train")
    flags = {"guidance": 3.0, "steps": 28, "shift": 1.0, "seed": 0}
    for step, count in {"gate": 240, "activity": 32}.items():
        steps.choices[step].add_argument("--count", type=int, default=count, help="pictures to draw")
        for name, value in flags.items():
            steps.choices[step].add_argument(f"--{name}", type=type(value), default=value)
    steps.choices["export"].add_argument(
        "--target", type=Path, default=Path("src/ditq/models/mini/mini.safetensors")
    )
    steps.choices["prompts"].add_argument("--package", type=Path, default=Path("src/ditq"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
