"""How much of everything a model takes: the one table of defaults of all commands."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Amounts:
    """How much of everything; the defaults are those of the documents for Stable Diffusion 3 Medium."""

    images: int = 50
    steps: int = 50
    cfg_weight: float = 7.5
    cache_images: int = 5
    cache_stride: int = 5
    statistics_images: int = 5
    statistics_stride: int = 2
    iterations: int = 1000
    tuning: int = 300
    """Steps of the last pass over scales and biases; 0: none."""
    prompts: int = 8
    """Of the evaluation."""
    batch_size: int = 1


AMOUNTS = {"mini": Amounts(40, 28, 3.0, 40, 7, 10, 2, 80, 0, 12, 10)}
"""Other amounts than the defaults, by model."""
QUICK = {"images": 4, "cache_images": 4, "cache_stride": 7, "statistics_images": 4, "statistics_stride": 7}
"""In place of these, for a look at the whole in a minute."""


def amounts_for(model: str, quick: bool = False) -> Amounts:
    """The amounts of a model, or those that show in a minute or two that everything works."""
    amounts = AMOUNTS.get(model, Amounts())
    return replace(amounts, **QUICK, iterations=60, tuning=0, prompts=4) if quick else amounts


def told(field: str) -> str:
    """The defaults of a field as help texts tell them: "50; mini: 40"."""
    usual = getattr(Amounts(), field)
    others = {name: getattr(amounts, field) for name, amounts in AMOUNTS.items()}
    return "; ".join([f"{usual:g}", *(f"{name}: {own:g}" for name, own in others.items() if own != usual)])
