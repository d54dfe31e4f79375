"""States between blocks, with a skip connection and blocks of two kinds, against the plain computation."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.models.state import BATCH_VALUES, Flow, row_batches, rows_at_once, run_block, take_rows


class Down(nn.Module):
    reads, writes = ("x", "scale"), ("x", "skip")

    def __call__(self, x, scale):
        return x * scale, x


class Up(nn.Module):
    reads, writes = ("x", "skip", "text"), ("x",)

    def __call__(self, x, skip, text):
        return x + skip + text


BLOCKS = [Down(), Up()]
FLOW = Flow.of(BLOCKS, ("x",), ("x",))


def test_blocks_read_what_much_earlier_ones_wrote():
    state = {
        "x": mx.array([[2.0], [3.0]]),
        "scale": mx.array([[10.0], [10.0]]),
        "text": mx.array([[1.0], [2.0]]),
    }
    for block in BLOCKS:
        state = run_block(block, state)
    assert state["x"].tolist() == [[2 * 10 + 2 + 1], [3 * 10 + 3 + 2]]


def test_flow_says_what_is_new_and_what_is_still_needed():
    assert [FLOW.written(at) for at in range(3)] == [("x",), ("x", "skip"), ("x",)]
    assert [FLOW.carried(at) for at in range(3)] == [{"x": 0}, {"x": 1, "skip": 1}, {"x": 2}]
    assert FLOW.read_later(0) == ("x", "skip") and FLOW.read_later(1) == ("x",)
    assert FLOW.inputs(0) == ("x",) and FLOW.inputs(1) == ("x", "skip")


def test_an_array_that_nobody_reads_is_not_carried():
    flow = Flow.of([Down(), Down()], ("x", "unused"), ("x",))
    assert flow.carried(0) == {"x": 0} and flow.read_later(1) == ("x",)


class Squares:
    """Row r holds r, squared; not in memory."""

    shape = (5, 2)

    def rows(self, rows):
        return mx.array(np.repeat(np.square(rows)[:, None], 2, axis=1))


def test_rows_are_taken_in_float32_from_memory_or_from_elsewhere():
    state = {"x": mx.arange(10).reshape(5, 2).astype(mx.float16), "y": mx.arange(5)}
    rows = np.arange(5)
    parts = [take_rows(state, some) for some in row_batches(rows, 2)]
    assert [len(part["y"]) for part in parts] == [2, 2, 1]
    assert all(part["x"].dtype == mx.float32 for part in parts)
    assert [row for part in parts for row in part["x"].tolist()] == state["x"].tolist()
    taken = take_rows({"x": Squares()}, np.array([3, 1]))
    assert taken["x"].dtype == mx.float32 and taken["x"].tolist() == [[9, 9], [1, 1]]


def test_few_rows_run_at_once_where_pictures_are_large():
    assert rows_at_once({"x": Squares()}) == 16 and rows_at_once({}) == 16
    large = {"x": mx.zeros((1, BATCH_VALUES // 4)), "y": mx.zeros((1, BATCH_VALUES // 4))}
    assert rows_at_once(large) == 2
    assert rows_at_once({**large, "z": mx.zeros((1, 4 * BATCH_VALUES))}) == 1


def test_what_is_written_again_before_it_is_read_is_not_carried():
    flow = Flow((("a",), ("kept",), ("a",)), (("kept",), ("a",), ("b",)), ("a",), ("b",))
    assert [list(flow.carried(at)) for at in range(4)] == [["a"], ["kept"], ["a"], ["b"]]
    assert flow.read_later(0) == ("kept",) and flow.inputs(2) == ("a",)
