"""Which recorded pictures serve: evenly spread ones with different prompts; and which of them share a prompt."""

from collections.abc import Mapping, Sequence

from ditq.core.errors import UserError


def first_of_prompt(prompts: Mapping[int, str]) -> dict[int, int]:
    """For each picture, by its prompt: the first picture with the same prompt."""
    firsts: dict[str, int] = {}
    return {image: firsts.setdefault(prompt, image) for image, prompt in prompts.items()}


def spread_images(prompts: Sequence[str], count: int) -> list[int]:
    """`count` pictures, evenly spread; one whose prompt was taken before gives way to the next with a new prompt.

    Raises UserError when there are not that many.
    """
    total, chosen = len(prompts), []
    if count > total:
        raise UserError(
            "--num-images", got=count, expected=f"at most {total}, the pictures of the calibration data"
        )
    for i in range(count):
        start = i * total // count
        free = [j % total for j in range(start, start + total) if j % total not in chosen]
        taken = {prompts[j] for j in chosen}
        chosen.append(next((j for j in free if prompts[j] not in taken), free[0]))
    return sorted(chosen)
