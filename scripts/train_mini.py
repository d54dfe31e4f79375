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

from mini import data, flow, gate, nets, pictures, sample, trained


def make_data(args: argparse.Namespace) -> None:
    """Writes `pictures.npy`, `code.npz` and an overview."""
    icons = data.read_icons(args.icons) if args.icons else data.fetch_icons()
    rendered = data.render(icons)
    code = nets.Latents.fit(rendered)
    np.save(args.out / "pictures.npy", rendered)
    np.savez(args.out / "code.npz", mean=code.mean, matrix=code.matrix)
    some = rendered[:: len(rendered) // 64][:64]
    sample.grid(some, 8).save(args.out / "data.png")
    sample.grid(code.decode(code.encode(some)), 8).save(args.out / "data_linear.png")
    print(f"{len(rendered)} pictures in {args.out}")


def load_data(folder: Path) -> tuple[np.ndarray, nets.Latents]:
    """The pictures uint8 [count, 128, 128, 3] and the linear code that `data` wrote."""
    with np.load(folder / "code.npz", allow_pickle=False) as arrays:
        code = nets.Latents(arrays["mean"], arrays["matrix"])
    return np.load(folder / "pictures.npy", allow_pickle=False), code


def train_flow(args: argparse.Namespace) -> None:
    """Trains transformer and text encoder until the schedule ends."""
    rendered, code = load_data(args.out)
    schedule = flow.Schedule(stable=args.stable_minutes * 60, decay=args.decay_minutes * 60)
    latents = np.concatenate([code.encode(part) for part in np.array_split(rendered, 32)])
    trainer = flow.Trainer(args.out, latents, code, schedule)
    trainer.run()
    print(f"{trainer.step} steps in {trainer.seconds:.0f} s")


def train_decoder(args: argparse.Namespace) -> None:
    """Trains the decoder of latents and reports its PSNR."""
    report(args.out, "decoder", pictures.train_decoder(args.out, *load_data(args.out), args.minutes))


def train_classifier(args: argparse.Namespace) -> None:
    """Trains the classifier on rendered and decoded pictures and reports its held-out accuracy."""
    decoder = trained.load_network(nets.Decoder(), args.out / "decoder.pt")
    scores = pictures.train_classifier(args.out, *load_data(args.out), decoder, args.minutes)
    report(args.out, "classifier", scores)


def judge(args: argparse.Namespace) -> None:
    """Draws held-out prompts and counts what the classifier recognises."""
    report(
        args.out, "gate", gate.gate(args.out, args.count, args.guidance, args.steps, args.shift, args.seed)
    )


def export_weights(args: argparse.Namespace) -> None:
    """Writes the float16 weights as one safetensors file and compares it with the trained model."""
    import ditq  # noqa: F401  before MLX, so that it finds a fast BLAS
    from mini.export import export, parity  # the only step that needs ditq and MLX

    report(args.out, "export", export(args.out, args.target) | parity(args.out, args.target))


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
    "export": export_weights,
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
    steps.choices["data"].add_argument("--icons", type=Path, help="unpacked icons.json instead of `npm pack`")
    steps.choices["flow"].add_argument("--stable-minutes", type=float, default=70.0, help="time at full rate")
    steps.choices["flow"].add_argument(
        "--decay-minutes", type=float, default=20.0, help="time of the final decay"
    )
    for name in ("decoder", "classifier"):
        steps.choices[name].add_argument("--minutes", type=float, default=8.0, help="time to train")
    flags = {"count": 280, "guidance": 3.0, "steps": 28, "shift": 1.0, "seed": 0}
    for name, value in flags.items():
        steps.choices["gate"].add_argument(f"--{name}", type=type(value), default=value)
    steps.choices["export"].add_argument(
        "--target", type=Path, default=Path("src/ditq/models/mini/mini.safetensors")
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
