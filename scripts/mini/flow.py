"""Training of transformer and text encoder: rectified flow, warm-stable-decay, resumed from checkpoints."""

from __future__ import annotations

import copy
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mini import data, nets, sample, words
from mini.team import Team


@dataclass(frozen=True)
class Shape:
    """Size of the transformer; tests make it tiny and leave it uncompiled."""

    width: int = nets.WIDTH
    depth: int = nets.DEPTH
    compiled: bool = True


@dataclass(frozen=True)
class Schedule:
    """Batch and learning rate: `warm_up` steps, constant, in the last `decay` of the training linearly to 2 %.

    The training ends after `minutes`, or after `steps` if these are given: the same on every machine.
    """

    minutes: float = 90.0
    steps: int | None = None
    decay: float = 0.3
    batch: int = 64
    rate: float = 1e-3
    warm_up: int = 100
    average: float = 0.999
    caption_dropout: float = 0.1
    save_every: float = 180.0
    sample_every: int = 1500

    def rate_at(self, step: int, seconds: float) -> float | None:
        """The learning rate of a step, `seconds` after the start; None when the training is over."""
        gone = step / self.steps if self.steps is not None else seconds / 60 / self.minutes
        if gone >= 1:
            return None
        late = max(0.0, gone - (1 - self.decay)) / self.decay
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (1 - 0.98 * late)


class Trainer:
    """Holds networks, optimiser and counters; `run()` trains to the end of the schedule."""

    def __init__(
        self,
        folder: Path,
        latents: np.ndarray,
        code: nets.Latents,
        schedule: Schedule,
        shape: Shape = Shape(),
        team: Team = Team(),  # noqa: B008  frozen
    ) -> None:
        self.folder, self.code, self.schedule, self.team = folder, code, schedule, team
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        known = words.vocabulary()
        self.index = {word: number for number, word in enumerate(known)}
        self.model = nets.transformer(shape.width, shape.depth).to(self.device)
        self.text = nets.TextEncoder(len(known), words.MAX_WORDS).to(self.device)
        self.both = nn.ModuleDict({"transformer": self.model, "text": self.text})
        self.ema = copy.deepcopy(self.both).requires_grad_(False)
        self.optimizer = _optimizer(self.both, schedule.rate)
        self.step, self.seconds = 0, 0.0
        self.latents = torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2)))
        self.known = [
            (row, item) for row, item in enumerate(data.pictures(len(latents))) if not item.held_out
        ]
        self.loss = torch.compile(self._loss) if shape.compiled else self._loss
        self._resume()

    def _loss(self, clean: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        level = sigma.view(-1, 1, 1, 1)
        # on a CPU the backward pass of PyTorch's flash attention is slower than the plain formula
        attention = SDPBackend.MATH if self.device.type == "cpu" else SDPBackend.FLASH_ATTENTION
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(attention):
            tokens, pooled = self.text(ids)
            velocity = self.model(
                hidden_states=(1 - level) * clean + level * noise, encoder_hidden_states=tokens,
                pooled_projections=pooled, timestep=1000 * sigma, return_dict=False,
            )[0]  # fmt: skip
        return (velocity.float() - (noise - clean)).square().mean()

    def run(self) -> None:
        """Trains until the decay is over; writes checkpoints, `log.jsonl` and sample grids."""
        saved = time.monotonic()
        losses: list[float] = []
        every = self.schedule.sample_every
        while (rate := self.schedule.rate_at(self.step, self.seconds)) is not None:
            start = time.monotonic()
            losses.append(self._advance(rate))
            spent = torch.tensor([time.monotonic() - start], dtype=torch.float64)
            self.team.average([spent])  # all processes must see the same rate, and the same end
            self.seconds += spent.item()
            if not self.team.leads:
                continue
            if self.step % 50 == 0:
                self._log(float(np.mean(losses)), rate)
                losses = []
            if every and (self.step % every == 0 or self.step == 500):
                self.save_samples()
            if time.monotonic() - saved > self.schedule.save_every:
                self.save()
                saved = time.monotonic()
        if self.team.leads:
            self.save()
            if every:
                self.save_samples()

    def _advance(self, rate: float) -> float:
        random_ = random.Random(self.step)  # a resumed run draws what an unbroken one would
        torch.manual_seed(self.step)
        chosen = random_.choices(self.known, k=self.schedule.batch)
        captions = [
            "" if random_.random() < self.schedule.caption_dropout else words.caption(item, random_)
            for _, item in chosen
        ]
        ids = torch.from_numpy(words.tokenize(captions, self.index)).to(self.device)
        clean = self.latents[[row for row, _ in chosen]].to(self.device).float()
        noise = torch.randn_like(clean)
        sigma = torch.randn(len(chosen), device=self.device).sigmoid()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(*(self.team.share(each) for each in (clean, noise, sigma, ids)))
        loss.backward()
        loss = loss.detach().view(1)
        gradients = [parameter.grad for parameter in self.both.parameters() if parameter.grad is not None]
        self.team.average([*gradients, loss])
        nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        keep = min(self.schedule.average, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.both.parameters()), 1 - keep)
        return loss.item()

    def _log(self, loss: float, rate: float) -> None:
        line = {"step": self.step, "loss": round(loss, 5), "rate": rate, "seconds": round(self.seconds, 1)}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Writes `checkpoint.pt` atomically."""
        state = {
            "both": self.both.state_dict(), "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        write_torch(self.folder / "checkpoint.pt", state)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.both.load_state_dict(state["both"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save_samples(self) -> None:
        """Writes 32 pictures of the averaged weights, every second held out, decoded linearly (needs no decoder)."""
        items = data.pictures(400)
        new = [item for item in items if item.held_out][:16]
        prompts = [words.caption(item) for pair in zip(items, new, strict=False) for item in pair]
        latents = sample.sample(self.ema["transformer"], self.ema["text"], prompts, range(len(prompts)))
        sample.grid(self.code.decode(latents), 8).save(self.folder / f"samples_{self.step:06d}.png")


def train(team: Team, folder: Path, schedule: Schedule) -> None:
    """Trains transformer and text encoder on what the step `data` left in `folder`, until the schedule ends."""
    latents = np.load(folder / "latents.npy", allow_pickle=False)
    trainer = Trainer(folder, latents, nets.Latents.load(folder / "code.npz"), schedule, team=team)
    trainer.run()
    if team.leads:
        print(f"{trainer.step} steps in {trainer.seconds:.0f} s")


def write_torch(path: Path, state: dict) -> None:
    """Saves under a temporary name, then renames: a kill leaves the old file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _optimizer(module: nn.Module, rate: float) -> torch.optim.AdamW:
    matrices, others = [], []
    for name, parameter in module.named_parameters():
        decays = parameter.ndim > 1 and name.startswith("transformer") and "pos_embed.pos_embed" not in name
        (matrices if decays else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
