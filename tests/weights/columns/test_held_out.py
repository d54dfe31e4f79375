"""Every row is held out or handed on, never both, whatever the batches."""

import numpy as np
import pytest

from ditq.weights.columns.held_out import EVERY, MOST, MOST_OF_BATCHES, HeldOut


def numbered(start, rows):
    """Rows that carry their number, in both streams."""
    x = np.arange(start, start + rows, dtype=np.float32)[:, None]
    return x, x + 0.5


@pytest.mark.parametrize("sizes", [[5000], [1] * 300, [5, 2000, 3, 700], [EVERY - 1, 1], [3]], ids=str)
@pytest.mark.parametrize("streams", [1, 2])
def test_each_row_is_held_out_or_handed_on_once(sizes, streams):
    held, handed_on, start = HeldOut(), [], 0
    for size in sizes:
        x, xq = numbered(start, size)
        rest, back = held.take((x, xq if streams == 2 else None))
        handed_on += x[rest, 0].tolist()
        for earlier, quantized in back:
            handed_on += earlier[:, 0].tolist()
            assert quantized is None if streams == 1 else np.array_equal(quantized, earlier + 0.5)
        start += size
    x, xq = held.rows()
    kept = x[:, 0].tolist()
    assert xq is x if streams == 1 else np.array_equal(xq, x + 0.5)
    if start < EVERY:
        assert kept == sorted(handed_on) == list(range(start))
        return
    assert sorted(handed_on + kept) == list(range(start))
    assert start // EVERY <= MOST // 2 or len(kept) > MOST // 4
    assert len(kept) <= MOST and len(set(np.diff(kept))) <= 1  # evenly spread


def test_whole_batches_are_held_out_where_asked():
    held = HeldOut()
    for number, whole in enumerate((False, True, False)):
        rest, back = held.take((numbered(1000 * number, 1000)[0], None), whole)
        assert not back and (~rest).all() == whole and rest.all() != whole
    assert held.rows()[0][:, 0].tolist() == list(range(1000, 2000))


def test_whole_batches_are_thinned_evenly_and_what_is_dropped_joins_nothing():
    held, handed_on = HeldOut(), 0
    for number in range(40):
        rest, back = held.take((numbered(100 * number, 100)[0], None), number % 4 == 3)
        handed_on += int(rest.sum())
        assert not back
    of = [row for number in range(3, 40, 4) for row in range(100 * number, 100 * number + 100)]
    assert held.rows()[0][:, 0].tolist() == of and handed_on == 3000
    for number in range(40, 50):
        held.take((numbered(100 * number, 100)[0], None), True)
    of += list(range(4000, 5000))
    assert held.rows()[0][:, 0].tolist() == of[::3] and len(of) > MOST_OF_BATCHES


def test_what_is_kept_is_a_copy():
    held, batch = HeldOut(), np.ones((20, 2), np.float32)
    held.take((batch, None))
    batch[:] = 2
    assert held.rows()[0].tolist() == [[1, 1]]
