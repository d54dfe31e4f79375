"""Weight methods: each decides on which codes of its grid every weight of a block stands."""

from ditq.core.cost import Cost
from ditq.core.methods import built
from ditq.weights.adaround import AdaRound
from ditq.weights.arrays import Solution, solve
from ditq.weights.cost import LayerWork, Work, block_work
from ditq.weights.layerwise import ParallelGPTQ, SequentialGPTQ, SequentialQronos
from ditq.weights.mixed import Mixed
from ditq.weights.problem import BlockProblem, BlockResult, InputsUsed, LayerSolver, Method, block_specs
from ditq.weights.rtn import RTN

__all__ = [
    "METHODS",
    "RTN",
    "AdaRound",
    "BlockProblem",
    "BlockResult",
    "Cost",
    "InputsUsed",
    "LayerSolver",
    "LayerWork",
    "Method",
    "Mixed",
    "Solution",
    "Work",
    "block_specs",
    "block_work",
    "built",
    "solve",
]

METHODS: dict[str, type] = {
    "rtn": RTN,
    "adaround": AdaRound,
    "gptq": ParallelGPTQ,
    "gptq-sequential": SequentialGPTQ,
    "qronos": SequentialQronos,
}
"""Each name's class."""
