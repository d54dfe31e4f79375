"""Weight methods: each decides on which codes of its grid every weight of a block stands."""

from ditq.weights.adaround import AdaRound
from ditq.weights.problem import BlockProblem, BlockResult, Method, block_specs
from ditq.weights.rtn import RTN

__all__ = ["METHODS", "RTN", "AdaRound", "BlockProblem", "BlockResult", "Method", "block_specs"]

METHODS: dict[str, type] = {
    "rtn": RTN,
    "adaround": AdaRound,
}
"""Each name's class."""
