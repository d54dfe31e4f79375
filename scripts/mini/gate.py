"""The quality gate: does a classifier see in the pictures what held-out prompts asked for?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mini import data, nets, pictures, sample, trained


def held_out_prompts(count: int) -> list[data.Picture]:
    """What is asked for: every held-out combination in turn, in the three sizes."""
    pairs = [
        (obj, place) for obj in range(len(data.OBJECTS)) for place in range(13) if data.held_out(obj, place)
    ]
    sizes = list(data.SIZES)
    return [data.Picture(*pairs[i % len(pairs)], sizes[i // len(pairs) % 3], 0) for i in range(count)]


def gate(folder: Path, count: int, guidance: float, steps: int, shift: float, seed: int) -> dict:
    """Accuracies, PSNR to the rendered pictures and the prompts that failed; writes `gate.png`, 64 of the pictures."""
    model, text = trained.load_flow(folder)
    model, text = trained.rounded(model), trained.rounded(text)
    decoder = trained.load_network(nets.Decoder(), folder / "decoder.pt")
    judge = trained.load_network(nets.Classifier(len(data.OBJECTS), 13), folder / "classifier.pt")
    asked = held_out_prompts(count)
    prompts = [data.caption(item.object, item.background, item.size) for item in asked]
    latents = []
    for rows in np.array_split(np.arange(count), max(1, count // 32)):
        some = [prompts[row] for row in rows]
        latents.append(sample.sample(model, text, some, rows + seed, steps, guidance, shift))
    drawn = sample.decode(decoder, np.concatenate(latents))
    right = pictures.classify(judge, drawn) == np.array([[item.object, item.background] for item in asked])
    numbers = {item: row for row, item in enumerate(data.pictures())}
    rendered = np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)
    wanted = rendered[[numbers[item] for item in asked]]
    shown = np.arange(count)[:: max(1, count // 64)][:64]
    sample.grid(drawn[shown], 8).save(folder / "gate.png")
    failed = [
        f"{prompt}: {'background' if hit[0] else 'object'}"
        for prompt, hit in zip(prompts, right, strict=True)
        if not hit.all()
    ]
    sizes = {size: right[[item.size == size for item in asked], 0] for size in data.SIZES}
    by_size = {size or "medium": float(hits.mean()) for size, hits in sizes.items() if len(hits)}
    return {
        "pictures": count, "guidance": guidance, "steps": steps, "shift": shift, "seed": seed,
        "object": float(right[:, 0].mean()), "background": float(right[:, 1].mean()),
        "object_by_size": by_size, "psnr_to_rendered": pictures.psnr(drawn, wanted),
        "failed": failed, "shown": [prompts[row] for row in shown],
    }  # fmt: skip
