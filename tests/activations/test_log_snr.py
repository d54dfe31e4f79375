"""Grids that are functions of log-SNR, against the closed forms of both noise processes."""

import numpy as np
import pytest

from ditq.activations import LogSNRGrid
from ditq.activations.log_snr import fitted, log_snr
from ditq.core.activation_grid import ActivationGrid
from ditq.sampling.schedules import PROCESSES

TIMESTEPS = np.array([950.0, 800.0, 500.0, 123.4, 20.0], np.float32)


def test_a_step_size_linear_in_log_snr_is_a_power_of_the_noise_ratio():
    """Of rectified flow log-SNR is 2 ln((1 - s) / s), so that scale = 2^a ((1 - s) / s)^(2 b ln 2)."""
    grid, s = LogSNRGrid(np.array([-2.0, 0.25]), 6), TIMESTEPS.astype(np.float64) / 1000
    rows = grid.at(TIMESTEPS)
    np.testing.assert_allclose(rows.scale, 2**-2.0 * ((1 - s) / s) ** (0.5 * np.log(2)), rtol=1e-6)
    assert rows.bits == [6] * 5 and rows.shift is None and isinstance(grid, ActivationGrid)
    assert rows.qmin.tolist() == [-32] * 5 and rows.qmax.tolist() == [31] * 5


def test_log_snr_of_ddpm_is_that_of_its_products():
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    whole = np.array([999.0, 400.0, 0.0], np.float32)
    expected = np.log(alphas / (1 - alphas))[[999, 400, 0]]
    np.testing.assert_allclose(log_snr("ddpm-linear", whole), expected, rtol=1e-6)
    grid = LogSNRGrid(np.array([0.0, 0.0, 0.01]), 8, "ddpm-linear")
    np.testing.assert_allclose(grid.at(whole).scale, 2 ** (0.01 * expected**2), rtol=1e-6)


def test_the_ends_of_a_run_are_finite():
    for noise in PROCESSES:
        rows = LogSNRGrid(np.array([0.0, 0.3]), 8, noise).at(np.array([1000.0, 0.0]))
        assert np.isfinite(rows.scale).all() and (np.array(rows.scale) > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_shift_is_the_same_at_all_timesteps(channels):
    shift = np.arange(1.0, channels + 1)
    rows = LogSNRGrid(np.array([1.0]), 8, shift=shift).at(TIMESTEPS)
    assert np.array(rows.shift).tolist() == [shift.tolist()] * 5 and rows.scale.tolist() == [2.0] * 5


@pytest.mark.parametrize("noise", sorted(PROCESSES))
def test_a_polynomial_is_found_again_from_its_step_sizes(noise):
    known = np.array([-3.0, 0.2, -0.01])
    scales = np.array(LogSNRGrid(known, 8, noise).at(TIMESTEPS).scale)
    np.testing.assert_allclose(fitted(TIMESTEPS, scales, 2, noise), known, atol=1e-5)
    constant = fitted(TIMESTEPS, np.array([1.0, 2.0, 4.0, 8.0, 16.0]), 0, noise)
    assert constant == pytest.approx([2.0])  # least squares: the mean of log2
