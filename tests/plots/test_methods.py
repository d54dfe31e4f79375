"""Every method is a line at its own bits, in both halves of the figure."""

import numpy as np

from ditq.plots.methods import Line, methods_by_bits


def test_lines_stand_at_their_values():
    errors = {"one": Line([4, 2], [3.0, 30.0], [2.0, 20.0], [4.0, 40.0]), "two": Line([2, 4], [20.0, 2.0])}
    gains = {"one": Line([2, 4], [0.0, 0.0]), "two": Line([2, 4], [1.5, -9.0])}
    made = methods_by_bits("a conclusion", errors, gains, "PSNR over rounding, dB", least=-3.0)
    left, right = made.axes
    assert [line.get_label() for line in left.lines] == ["one", "two"]
    np.testing.assert_allclose(left.lines[0].get_ydata(), [30.0, 3.0])
    np.testing.assert_allclose(np.round(left.lines[0].get_xdata()), [2, 4])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [1.5, -9.0])
    assert left.get_yscale() == "log" and right.get_ylim()[0] == -3.0
    assert right.get_ylabel() == "PSNR over rounding, dB (median, quartiles)"
