"""Costs of the methods against figures worked out by hand."""

import pytest

from ditq import capture
from ditq.weights import METHODS, RTN, AdaRound, Cost, LayerWork, SequentialGPTQ, Work, block_work
from ditq.weights.adaround import COPIES, JUDGEMENTS, KEPT, PER_WEIGHT
from ditq.weights.cost import ON_GRID, RANGE_SEARCH
from ditq.weights.reconstruction import LOOKS
from tests.weights.toy import toy_network

LAYERS = {
    "q": LayerWork(out=8, columns=10, rows=7, input="q", stage=0),
    "k": LayerWork(out=8, columns=10, rows=7, input="q", stage=0),
    "fc": LayerWork(out=10, columns=30, rows=7, input="fc", stage=1),
}
WORK = Work(rows=20, share=0.1, layers=LAYERS)
FACTORS = 4 * (1000 / 3 + 100 * 256) + 2 * 100 * 16 + 4 * (27000 / 3 + 900 * 256) + 2 * 900 * 10
"""Four rungs for each of the two inputs, and the columns of all outputs."""


def test_work_of_a_block_is_that_of_its_shapes():
    network = toy_network()
    layers = {path: capture.layers(network)[path] for path in network.anatomy.paths(block="up")}
    work = block_work(network.anatomy, layers, 12, 0.5, lambda path: 5 if path in ("up.k", "up.v") else 64)
    assert (work.rows, work.share, work.weights) == (12, 0.5, 32 * 32 + 2 * 32 * 16 + 32 * 64)
    assert work.layers["up.k"] == LayerWork(out=32, columns=16, rows=5, input="up.k", stage=0)
    assert work.layers["up.conv"] == LayerWork(out=32, columns=64, rows=64, input="up.conv", stage=1)
    down = block_work(network.anatomy, {"down.conv": network.down.conv}, 1, 1.0, lambda path: 16)
    assert down.layers["down.conv"].columns == 9 * 32
    assert [list(part.layers) for part in work.by_stage()] == [["up.k", "up.q", "up.v"], ["up.conv"]]
    assert [len(group) for group in work.by_input()] == [1, 2, 1] or [
        len(group) for group in work.by_input()
    ] == [2, 1, 1]


def test_rounding_searches_ranges():
    assert RTN().cost(WORK) == Cost(values=RANGE_SEARCH * 460) and RTN(search=False).cost(WORK) == Cost()


@pytest.mark.parametrize(
    ("name", "passes", "sums", "memory"),
    [
        ("gptq", 1, 1, 4 * (100 + 900)),
        ("gptq-sequential", 4, 1, 4 * 900),
        ("qronos", 8, 3, 2 * 4 * 900),
    ],
)
def test_layer_solvers_run_the_block_sum_products_and_factor(name, passes, sums, memory):
    cost = METHODS[name]().cost(WORK)
    assert cost.rows == pytest.approx(passes * 20 * 0.1)
    assert cost.flops == pytest.approx(sums * 20 * 7 * (100 + 900) + FACTORS)
    on_grids = 0 if name == "gptq" else passes * ON_GRID * 20 * 7 * (10 + 10 + 30)
    assert cost.values == pytest.approx(on_grids + RANGE_SEARCH * 460)
    assert (cost.seconds, cost.memory) == (0, memory)


def test_adaround_runs_forward_and_backward_on_batches():
    cost, begun = AdaRound(iterations=50, batch_size=5, gptq=0).cost(WORK), SequentialGPTQ().cost(WORK)
    from_gptq = AdaRound(iterations=50, batch_size=5).cost(WORK)
    judged = (JUDGEMENTS + LOOKS) * 20
    assert from_gptq == cost + begun
    assert cost.rows == pytest.approx(0.1 * (3 * 50 * 5 + judged))
    steps = 50 * (PER_WEIGHT * 460 + 2 * ON_GRID * 5 * 350)
    assert cost.values == pytest.approx(steps + judged * ON_GRID * 350 + RANGE_SEARCH * 460)
    assert cost.memory == 4 * (COPIES * 460 + KEPT * 5 * 350)
    assert AdaRound(iterations=50, batch_size=64, gptq=0).cost(WORK).rows == 0.1 * (3 * 50 * 20 + judged)


def test_every_method_says_what_it_needs():
    needs = {name: (method().streams, method().by_layer) for name, method in METHODS.items()}
    assert needs == {
        "rtn": ("none", True),
        "adaround": ("both", False),
        "gptq": ("float", True),
        "gptq-sequential": ("quantized", True),
        "qronos": ("both", True),
    }
    assert all(hasattr(method, "solve") == method.by_layer for method in METHODS.values())
