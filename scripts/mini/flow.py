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

from mini import data, nets, sample


@dataclass(frozen=True)
class Schedule:
    """Batch and learning rate: `warm_up` steps, constant until `stable` s, in `decay` s linearly to 2 %."""

    batch: int = 64
    rate: float = 1e-3
    warm_up: int = 100
    stable: float = 70 * 60
    decay: float = 20 * 60
    average: float = 0.999
    caption_dropout: float = 0.1
    save_every: float = 180.0
    sample_every: int = 1500


class Trainer:
    """Holds networks, optimiser and counters; `run()` trains to the end of the schedule."""

    def __init__(
        self, folder: Path, latents: np.ndarray, code: nets.Latents, schedule: Schedule, seed: int = 0
    ) -> None:
        self.folder, self.code, self.schedule = folder, code, schedule
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(seed)
        words = data.vocabulary()
        self.index = {word: number for number, word in enumerate(words)}
        self.model = nets.transformer().to(self.device)
        self.text = nets.TextEncoder(len(words), data.MAX_WORDS).to(self.device)
        self.both = nn.ModuleDict({"transformer": self.model, "text": self.text})
        self.ema = copy.deepcopy(self.both).requires_grad_(False)
        self.optimizer = _optimizer(self.both, schedule.rate)
        self.step, self.seconds, self.decay_start = 0, 0.0, None
        self.latents = nets.as_torch(latents).to(self.device)
        self.known = [(row, item) for row, item in enumerate(data.pictures()) if not item.held_out]
        self.weights = [
            data.SIZE_WEIGHTS[item.size] * data.SIZES[item.size][1][item.shift] for _, item in self.known
        ]
        self.loss = torch.compile(self._loss)
        self._resume()

    def _loss(self, clean: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        level = sigma.view(-1, 1, 1, 1)
        with torch.autocast(self.device.type, torch.bfloat16):
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
        while (rate := self._rate()) is not None:
            start = time.monotonic()
            losses.append(self._advance(rate))
            self.seconds += time.monotonic() - start
            if self.step % 50 == 0:
                self._log(float(np.mean(losses)), rate)
                losses = []
            if self.step % self.schedule.sample_every == 0 or self.step == 500:
                self.save_samples()
            if time.monotonic() - saved > self.schedule.save_every:
                self.save()
                saved = time.monotonic()
        self.save()
        self.save_samples()

    def _rate(self) -> float | None:
        """The learning rate of this step; None when the schedule is over."""
        plan = self.schedule
        if self.decay_start is None and self.seconds >= plan.stable:
            self.decay_start = self.seconds
        if self.decay_start is None:
            return plan.rate * min(1.0, (self.step + 1) / plan.warm_up)
        gone = (self.seconds - self.decay_start) / plan.decay
        return None if gone >= 1 else plan.rate * (1 - 0.98 * gone)

    def _advance(self, rate: float) -> float:
        random_ = random.Random(self.step)  # a resumed run draws what an unbroken one would
        torch.manual_seed(self.step)
        chosen = random_.choices(self.known, self.weights, k=self.schedule.batch)
        captions = [
            "" if random_.random() < self.schedule.caption_dropout
            else data.caption(item.object, item.background, item.size, random_)
            for _, item in chosen
        ]  # fmt: skip
        ids = torch.from_numpy(data.tokenize(captions, self.index)).to(self.device)
        clean = self.latents[[row for row, _ in chosen]]
        noise = torch.randn_like(clean)
        sigma = torch.randn(len(chosen), device=self.device).sigmoid()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(clean, noise, sigma, ids)
        loss.backward()
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
            "step": self.step, "seconds": self.seconds, "decay_start": self.decay_start,
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
        self.step, self.seconds, self.decay_start = state["step"], state["seconds"], state["decay_start"]

    def save_samples(self) -> None:
        """Writes a grid of 32 pictures of the averaged weights, decoded linearly (needs no decoder)."""
        latents = sample.sample(
            self.ema["transformer"], self.ema["text"], sample.prompts_for_grid(32), range(32)
        )
        sample.grid(self.code.decode(latents), 8).save(self.folder / f"samples_{self.step:06d}.png")


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
