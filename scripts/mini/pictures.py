"""Training of the two small convolutional networks: the decoder of latents and the judge of pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini import data, flow, nets, sample, words

Network = TypeVar("Network", bound=nn.Module)
_LATENT_NOISE = 0.1  # the decoder must forgive the errors of sampling and of quantization
_JUDGED = 1200  # the last pictures: shown to neither network


def train_decoder(folder: Path, pictures: np.ndarray, code: nets.Latents, minutes: float) -> dict[str, float]:
    """PSNR in dB of the trained decoder and of the linear one on pictures that it was not shown.

    Writes `decoder.pt` and `decoder.png`.
    """
    decoder = _resumed(nets.Decoder(), folder / "decoder.pt").to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.0, betas=(0.9, 0.98))
    for rate in _rates(minutes, 2e-3):
        _set_rate(optimizer, rate)
        wanted = pictures[np.sort(rng.choice(len(pictures) - _JUDGED, 8))]
        z = nets.as_torch(code.encode(wanted)).contiguous(memory_format=torch.channels_last)
        z = z + torch.randn_like(z) * _LATENT_NOISE * torch.rand(len(z), 1, 1, 1)
        # the end, at lower rates, in float32
        with torch.autocast("cpu", torch.bfloat16, enabled=rate == 2e-3):
            got = decoder(z)
        _descend(_picture_loss(got.float(), _images(wanted)), optimizer)
    flow.write_torch(folder / "decoder.pt", decoder.state_dict())
    some = pictures[-96:]
    latents = code.encode(some)
    ours, linear = sample.decode(decoder, latents), code.decode(latents)
    pairs = np.stack([some[:32], ours[:32]], 1).reshape(-1, *some.shape[1:])
    sample.grid(pairs, 8).save(folder / "decoder.png")
    return {"decoder_psnr": psnr(ours, some), "linear_psnr": psnr(linear, some)}


def _picture_loss(got: Tensor, wanted: Tensor) -> Tensor:
    """L1 of the pixels and of their differences to the right and below: the latter ask for crisp edges."""
    error = got - wanted
    return error.abs().mean() + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def train_classifier(
    folder: Path, pictures: np.ndarray, code: nets.Latents, minutes: float
) -> dict[str, float]:
    """Accuracies on pictures that it was not shown, rendered and coded; writes `classifier.pt`.

    Coded: as the linear code leaves them, which is what a generated picture can be at worst.
    It is trained on the combinations that the transformer never sees, too: a judge that never saw them learns that
    they do not occur.
    """
    labels = torch.from_numpy(data.labels(data.pictures(len(pictures))))
    network = _resumed(judge_network(), folder / "classifier.pt").to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    for rate in _rates(minutes, 1e-3):
        _set_rate(optimizer, rate)
        rows = np.sort(rng.choice(len(pictures) - _JUDGED, 32))
        batch = pictures[rows]
        if rng.random() < 0.5:
            batch = code.decode(code.encode(batch))
        images = _augmented(_images(batch)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        losses = [
            F.cross_entropy(each.float(), wanted, label_smoothing=0.05, ignore_index=-1)
            for each, wanted in zip(logits, labels[rows].T, strict=True)
        ]
        _descend(torch.stack(losses).sum(), optimizer)
    flow.write_torch(folder / "classifier.pt", network.state_dict())
    kept, wanted = pictures[-_JUDGED:], labels[-_JUDGED:].numpy()
    sources = {"rendered": kept, "coded": code.decode(code.encode(kept))}
    return {
        f"{source}_{name}": share
        for source, shown in sources.items()
        for name, share in accuracies(classify(network, shown), wanted).items()
    }


JUDGEMENTS = ("object", "background", "colour", "position")


def judge_network() -> nets.Classifier:
    """The untrained classifier, with a logit for every name."""
    return nets.Classifier(
        len(words.OBJECTS), len(data.BACKGROUNDS), len(words.COLOURS), len(words.POSITIONS)
    )


def accuracies(guesses: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Shares of right guesses, by name; pictures without a colour (-1) do not count for colour."""
    right, counts = guesses == wanted, wanted >= 0
    return {
        name: float(right[counts[:, column], column].mean())
        for column, name in enumerate(JUDGEMENTS)
        if counts[:, column].any()
    }


def _augmented(images: Tensor) -> Tensor:
    """Shifted by up to 4 px (the edge repeated), blurred, brightened and noisy copies."""
    count, size = len(images), images.shape[-1]
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    x, y = torch.randint(0, 9, (2,)).tolist()
    images = padded[:, :, y : y + size, x : x + size]
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    images = torch.lerp(images, blurred, torch.rand(count, 1, 1, 1))
    images = images * (1 + 0.1 * torch.randn(count, 1, 1, 1)) + 0.1 * torch.randn(count, 3, 1, 1)
    return images + 0.15 * torch.rand(count, 1, 1, 1) * torch.randn_like(images)


def classify(network: nets.Classifier, pictures: np.ndarray) -> np.ndarray:
    """The most probable object, background, colour and position of uint8 pictures: int64 [batch, 4]."""
    with torch.no_grad():
        parts = [network(_images(part)) for part in np.array_split(pictures, max(1, len(pictures) // 32))]
    return np.concatenate([np.stack([logits.argmax(1).numpy() for logits in part], 1) for part in parts])


def psnr(got: np.ndarray, wanted: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures, over all of them."""
    error = np.square(got.astype(np.float32) - wanted.astype(np.float32)).mean()
    return float(10 * np.log10(255**2 / error))


def _images(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _rates(minutes: float, peak: float) -> Iterator[float]:
    """A learning rate for every step until the time is over: constant, from the middle on linear to zero."""
    start = time.monotonic()
    while (gone := (time.monotonic() - start) / 60 / minutes) < 1:
        yield peak * min(1.0, 2 * (1 - gone))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _resumed(network: Network, path: Path) -> Network:
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    return network
