"""Grids whose step size is a function of the log signal-to-noise ratio, so that they serve any timestep."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float64

from ditq.core.activation_grid import GridRows, Timesteps
from ditq.sampling.schedules import PROCESSES


@dataclass(frozen=True, eq=False)
class LogSNRGrid:
    """log2 of the step size is a polynomial of log-SNR; bits and shift are the same at all timesteps."""

    coefficients: Float64[np.ndarray, "powers"]
    """Of log-SNR to the power 0, 1, 2, ..."""
    bits: int
    noise: str = "rectified-flow"
    """The noise process that says which log-SNR a timestep has, a name of `PROCESSES`."""
    shift: Float[np.ndarray, "channels"] | None = None
    """Centre of the grid: one value, or one per input channel; None: zero."""
    smooth: Float[mx.array, "in"] | None = None

    def at(self, timesteps: Timesteps) -> GridRows:
        """The grid at each of these timesteps."""
        log2 = np.polynomial.polynomial.polyval(log_snr(self.noise, timesteps), self.coefficients)
        shift = None if self.shift is None else np.tile(self.shift, (len(timesteps), 1))
        return GridRows.of([self.bits] * len(timesteps), np.exp2(log2), shift)


def fitted(
    timesteps: Timesteps, scales: Float[np.ndarray, "rows"], degree: int, noise: str = "rectified-flow"
) -> Float64[np.ndarray, "powers"]:
    """The coefficients of the polynomial that is nearest, in least squares, to log2 of these step sizes."""
    log2 = np.log2(scales.astype(np.float64))
    return np.polynomial.polynomial.polyfit(log_snr(noise, timesteps), log2, degree)


def log_snr(noise: str, timesteps: Timesteps) -> Float64[np.ndarray, "rows"]:
    """The log-SNR of each timestep."""
    process = PROCESSES[noise]
    return process.log_snr(process.sigmas(timesteps.astype(np.float64)))
