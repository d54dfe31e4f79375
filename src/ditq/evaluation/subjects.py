"""What is evaluated: quantized checkpoints in their folders, each opened when its pictures are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ditq import checkpoint
from ditq.checkpoint import FolderModel, QuantizedCheckpoint, QuantizedModel, is_folder
from ditq.core.errors import UserError
from ditq.evaluation.variants import Size, Variant, fingerprint_of, lazy_variant, size_of
from ditq.models.base import TextToImage

SHIPPED = (
    "config.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
    "activations.npz",
    "smoothing.npz",
)
"""The files of a checkpoint folder, as patterns: what else lies there is not needed to draw."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint folder and the variants that it gives: its weights alone, and with its activation grids."""

    folder: Path
    name: str
    variants: list[Variant]
    meta: Mapping[str, Any]
    files: dict[str, int]
    """Bytes of each file that a checkpoint folder ships; empty for a run's folder, which is no checkpoint yet."""

    @property
    def calibration_prompts(self) -> list[str]:
        """The prompts that it was calibrated on; none where it does not say."""
        found = self.meta.get("calibration_prompts", [])
        return [str(one) for one in found] if isinstance(found, list) else []

    @property
    def whole(self) -> bool:
        """Whether the folder draws without the float weights."""
        return bool(self.files)

    def opened(self, model: TextToImage, variant: Variant) -> TextToImage:
        """The quantized model, from the folder alone where it is a whole checkpoint."""
        activations = variant is not self.variants[0]
        if self.whole:
            return FolderModel(model, self.folder, activations)
        return QuantizedModel(model, checkpoint.load(self.folder), activations)


def read_subjects(folders: Sequence[Path], model: TextToImage) -> list[Subject]:
    """The checkpoints of these folders, read one after the other and not kept.

    Raises UserError for a folder that is no checkpoint, for one of another model, and for the same one twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("--checkpoint", got="a folder twice", expected="different folders")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    prefixes = [f"{name}: " if len(folders) > 1 else "" for name in names]
    return [
        _subject(folder, name, prefix, model)
        for folder, name, prefix in zip(folders, names, prefixes, strict=True)
    ]


def _subject(folder: Path, name: str, prefix: str, model: TextToImage) -> Subject:
    made = checkpoint.load(folder)
    if made.model != model.name:
        raise UserError(
            str(folder), got=f"a checkpoint of {made.model}", expected=f"one of {model.name} (--model)"
        )
    fingerprint, read = fingerprint_of(made), partial(checkpoint.load, folder)
    bits = f"W{'/'.join(map(str, sorted({weight.spec.bits for weight in made.weights.values()})))}"
    variants = [lazy_variant(f"{prefix}{bits}A16", read, fingerprint, _size(model, made, False), False)]
    if made.activations is not None:
        told = f"{prefix}{bits}, activations quantized"
        variants.append(lazy_variant(told, read, fingerprint, _size(model, made, True)))
    return Subject(folder, name, variants, made.meta, shipped_files(folder) if is_folder(folder) else {})


def shipped_files(folder: Path) -> dict[str, int]:
    """The bytes of each file of a checkpoint folder that a reader needs."""
    found = sorted(file for pattern in SHIPPED for file in folder.glob(pattern))
    return {file.name: file.stat().st_size for file in found}


def check_disjoint(prompts: Sequence[str], subjects: Sequence[Subject]) -> None:
    """Raises UserError where a checkpoint was calibrated on one of these prompts; case and spaces do not count."""
    for subject in subjects:
        known = {_plain(prompt) for prompt in subject.calibration_prompts}
        both = list(dict.fromkeys(prompt for prompt in prompts if _plain(prompt) in known))
        if both:
            more = f" and {len(both) - 1} more" if len(both) > 1 else ""
            raise UserError(
                "prompts",
                got=f"{both[0]!r}{more}, which {subject.folder} was calibrated on",
                expected="prompts that calibration did not use",
                remedy="take them out of the file, or leave --prompts out for prompts of our own",
            )


def _plain(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def _size(model: TextToImage, made: QuantizedCheckpoint, activations: bool) -> Size:
    return size_of(model, made if activations else replace(made, activations=None))
