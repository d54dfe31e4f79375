"""The quality gate: does a classifier see in the pictures what held-out prompts asked for, and do seeds matter?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from mini import data, nets, pictures, sample, trained, words

SEED_PROMPTS = (
    "a fox in the snow",
    "a small red car on the left in the desert",
    "a penguin on the right on a pink background",
    "a large owl at sunset",
)


def held_out_pictures(count: int) -> list[data.Picture]:
    """What is asked for: every held-out combination in turn, with changing size, position and colour."""
    pairs = [
        (obj, place)
        for obj in range(len(words.OBJECTS))
        for place in range(len(data.BACKGROUNDS))
        if data.held_out(obj, place)
    ]
    asked = []
    for number in range(count):
        lap, index = divmod(number, len(pairs))
        obj, place = pairs[index]
        size = (index + lap) % 3
        position = (index // 3 + lap // 3) % 3 if words.SIZES[size] != "large" else 1
        colours = [-1]
        if list(words.OBJECTS)[obj] in words.COLOURED:
            colours = [one for one in range(len(words.COLOURS)) if data.visible(one, place)]
        asked.append(data.Picture(obj, colours[(index + lap) % len(colours)], place, size, position))
    return asked


def gate(folder: Path, options: dict, count: int, pairs: int = 48) -> dict:
    """Accuracies, variety between seeds and the prompts that failed.

    `options` are of `sample.sample`, and `seed`. Writes `gate.png`, 64 of the pictures, and `seeds.png`, six seeds of
    four prompts.
    """
    draw = Drawer(folder, {name: value for name, value in options.items() if name != "seed"})
    judge = trained.load_network(pictures.judge_network(), folder / "classifier.pt")
    asked = held_out_pictures(count)
    prompts = [words.caption(item) for item in asked]
    seeds = np.arange(count) + options["seed"]
    drawn = draw(prompts, seeds)
    guesses, wanted = pictures.classify(judge, drawn), data.labels(asked)
    shown = np.linspace(0, count - 1, min(64, count)).astype(int)
    sample.grid(drawn[shown], 8).save(folder / "gate.png")
    many = [prompt for prompt in SEED_PROMPTS for _ in range(6)]
    sample.grid(draw(many, [*range(6)] * len(SEED_PROMPTS)), 6).save(folder / "seeds.png")
    again = draw(prompts[:pairs], seeds[:pairs] + 100_000)
    between = [pictures.psnr(one, other) for one, other in zip(drawn, again, strict=False)]
    return {
        "pictures": count,
        **options,
        **pictures.accuracies(guesses, wanted),
        "object_by_size": _by(words.SIZES, [item.size for item in asked], guesses, wanted),
        "object_by_position": _by(words.POSITIONS, [item.position for item in asked], guesses, wanted),
        "psnr_between_seeds": dict(
            zip(("lowest", "median", "highest"), np.quantile(between, (0, 0.5, 1)).tolist(), strict=True)
        ),
        "failed": _failures(prompts, guesses, wanted),
        "shown": [prompts[row] for row in shown],
    }


class Drawer:
    """Draws prompts with the averaged weights of a run folder, rounded to float16 as the exported ones are."""

    def __init__(self, folder: Path, options: dict) -> None:
        model, text = trained.load_flow(folder)
        self.model, self.text = trained.rounded(model), trained.rounded(text)
        self.folder, self.options = folder, options

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [prompts, 128, 128, 3]."""
        latents = self.latents(prompts, seeds)
        return np.concatenate([sample.decode(self.decoder, part) for part in np.array_split(latents, 8)])

    def latents(self, prompts: Sequence[str], seeds: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 [prompts, 16, 16, channels], drawn in batches of 32."""
        parts = []
        for rows in np.array_split(np.arange(len(prompts)), -(-len(prompts) // 32)):
            some, theirs = [prompts[row] for row in rows], [int(seeds[row]) for row in rows]
            parts.append(sample.sample(self.model, self.text, some, theirs, **self.options))
        return np.concatenate(parts)

    @cached_property
    def decoder(self) -> nets.Decoder:
        """Latents to pictures."""
        return trained.rounded(trained.load_network(nets.Decoder(), self.folder / "decoder.pt"))

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        return self.model.transformer_blocks


def _by(names: Sequence[str], groups: list[int], guesses: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Share of right objects, by size or position."""
    right = guesses[:, 0] == wanted[:, 0]
    numbers = np.array(groups)
    return {name or "medium": float(right[numbers == n].mean()) for n, name in enumerate(names)}


def _failures(prompts: list[str], guesses: np.ndarray, wanted: np.ndarray) -> list[str]:
    """'prompt: what the judge missed, and what it saw instead'."""
    names = (list(words.OBJECTS), [one.name for one in data.BACKGROUNDS], words.COLOURS, words.POSITIONS)
    return [
        f"{prompt}: {what} {names[column][guess[column]]}"
        for prompt, guess, want in zip(prompts, guesses, wanted, strict=True)
        for column, what in enumerate(pictures.JUDGEMENTS)
        if want[column] >= 0 and guess[column] != want[column]
    ]
