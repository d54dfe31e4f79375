"""What both collections of statistics let their user choose: how much is run, whose inputs, and which share of it."""

from collections.abc import Mapping

from ditq.core.errors import UserError

INPUTS = ("postgelu", "all")


def check_selection(counts: Mapping[str, int], inputs: str, shard: tuple[int, int]) -> None:
    """Raises UserError, naming the flag, unless counts are at least 1, `inputs` is known and the shard is (k, n)."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"--{name.replace('_', '-')}", got=count, expected="at least 1")
    if inputs not in INPUTS:
        raise UserError("--inputs", got=inputs, expected=" or ".join(INPUTS))
    if not 0 <= shard[0] < shard[1]:
        raise UserError("--shard", got=f"{shard[0]}/{shard[1]}", expected="K/N with 0 <= K < N")
