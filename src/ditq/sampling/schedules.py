"""Noise processes: how data and noise are mixed at a noise level, which timestep it is, and in which steps it falls.

At noise level sigma a latent is x = alpha data + sigma noise. Everything that is counted in noise levels here starts
at (nearly) pure noise and ends at (nearly) 0; timesteps and log-SNR are computed nowhere else.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int64

from ditq.models.base import Prediction

Sigmas = Float64[np.ndarray, "points"]
Levels = Float[np.ndarray, "points"]
"""Noise levels in the dtype that the answer shall have."""
Grid = Callable[[int, float], Sigmas]
"""(steps, shift) -> the `steps + 1` noise levels of a run, falling to (nearly) 0."""


@runtime_checkable
class NoiseProcess(Protocol):
    """What a model was trained to undo."""

    @property
    def name(self) -> str:
        """Its name in `PROCESSES` and in files."""
        ...

    @property
    def prediction(self) -> Prediction:
        """What networks trained on it predict, unless they say otherwise."""
        ...

    @property
    def grids(self) -> Mapping[str, Grid]:
        """The ways to divide a run into steps, by name."""
        ...

    @property
    def shifts(self) -> bool:
        """Whether its grids heed a shift."""
        ...

    @property
    def most_steps(self) -> int | None:
        """The steps that a run can be divided into; None: any number."""
        ...

    def alphas(self, sigmas: Levels) -> Levels:
        """The factor of the data at each noise level."""
        ...

    def timesteps(self, sigmas: Levels) -> Levels:
        """What the network is told of each noise level."""
        ...

    def sigmas(self, timesteps: Levels) -> Levels:
        """The noise level that the network is told of by each timestep: `timesteps` undone."""
        ...

    def log_snr(self, sigmas: Levels) -> Levels:
        """ln(alpha^2 / sigma^2), finite: levels beyond the training timesteps count as the outermost of them."""
        ...


def shifted(sigma: Sigmas, shift: float) -> Sigmas:
    """Noise levels moved towards 1 for larger pictures: shift s / (1 + (shift - 1) s); SD3, section 5.3.2."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def uniform_sigmas(steps: int, shift: float) -> Sigmas:
    """`steps + 1` levels from 1 to 0, evenly spaced before the shift."""
    return shifted(np.linspace(1.0, 0.0, steps + 1), shift)


def diffusionkit_sigmas(steps: int, shift: float) -> Sigmas:
    """DiffusionKit's grid, which is also that of Stability's reference code: `steps` levels from 1 down, then 0.

    Its smallest level before the 0 is 1/1000 with the shift applied twice (at shift 3: 0.00893, timestep 8.93).
    """
    least = shifted(np.array([1e-3]), shift)[0]
    return np.append(shifted(np.linspace(1.0, least, steps), shift), 0.0)


class RectifiedFlow:
    """Straight paths, x = (1 - sigma) data + sigma noise, along the velocity noise - data; timesteps are 1000 sigma."""

    name = "rectified-flow"
    prediction: Prediction = "velocity"
    grids: Mapping[str, Grid] = {"uniform": uniform_sigmas, "diffusionkit": diffusionkit_sigmas}
    shifts = True
    most_steps = None

    def alphas(self, sigmas: Levels) -> Levels:
        """1 - sigma."""
        return 1 - sigmas

    def timesteps(self, sigmas: Levels) -> Levels:
        """1000 sigma."""
        return 1000 * sigmas

    def sigmas(self, timesteps: Levels) -> Levels:
        """A thousandth of the timestep."""
        return timesteps / 1000

    def log_snr(self, sigmas: Levels, floor: float = 1e-3) -> Levels:
        """2 ln((1 - sigma) / sigma), with sigma held in [floor, 1 - floor].

        The default floor is one of the 1000 training timesteps; without it the ends are infinite.
        """
        sigmas = np.clip(sigmas, floor, 1 - floor)
        return 2 * np.log((1 - sigmas) / sigmas)


class VariancePreserving:
    """The discrete process of DDPM (Ho et al. 2020, arXiv 2006.11239): sigma^2 = 1 - abar, alpha^2 = abar.

    abar at timestep t is the product of 1 - beta up to and including t. Its first level is the last training timestep,
    not pure noise. The grids are the timestep spacings of diffusers, for which the picture is clean after the last
    step (`final_sigmas_type="zero"`, `set_alpha_to_one=True`); `stable-diffusion` is the `leading` one, ended at the
    first training timestep instead (`set_alpha_to_one=False`), as the schedulers of Stable Diffusion 1 are.
    """

    prediction: Prediction = "epsilon"
    shifts = False

    def __init__(self, name: str, betas: Float64[np.ndarray, "timesteps"]):
        self.name = name
        self.table: Sigmas = np.sqrt(1 - np.cumprod(1 - betas))
        """The noise level of each training timestep."""
        self.most_steps = len(betas) - 1
        spacings = {"linspace": self._linspace, "leading": self._leading, "trailing": self._trailing}
        self.grids: Mapping[str, Grid] = {
            **{key: self._grid(spacing, 0.0) for key, spacing in spacings.items()},
            "stable-diffusion": self._grid(self._leading, self.table[0]),
        }

    def alphas(self, sigmas: Levels) -> Levels:
        """sqrt(1 - sigma^2)."""
        return np.sqrt(1 - sigmas**2)

    def timesteps(self, sigmas: Levels) -> Levels:
        """The training timestep with this noise level, linear between two; exact where there is one, in any dtype."""
        table = self.table.astype(sigmas.dtype)
        return np.interp(sigmas, table, np.arange(len(table))).astype(sigmas.dtype)

    def sigmas(self, timesteps: Levels) -> Levels:
        """The noise level of the training timestep, linear between two."""
        return np.interp(timesteps, np.arange(len(self.table)), self.table).astype(timesteps.dtype)

    def log_snr(self, sigmas: Levels) -> Levels:
        """ln(abar / (1 - abar)), with sigma held within the training timesteps."""
        square = np.clip(sigmas, self.table[0], self.table[-1]) ** 2
        return np.log((1 - square) / square)

    def _grid(self, spacing: Callable[[int], Int64[np.ndarray, "steps"]], last: float) -> Grid:
        def grid(steps: int, shift: float) -> Sigmas:
            return np.append(self.table[spacing(steps)], last)

        return grid

    def _linspace(self, steps: int) -> Int64[np.ndarray, "steps"]:
        """Evenly from the last timestep to the first, which is left out; as diffusers' DPM-Solver."""
        return np.linspace(len(self.table) - 1, 0, steps + 1).round()[:-1].astype(np.int64)

    def _leading(self, steps: int) -> Int64[np.ndarray, "steps"]:
        """Multiples of a whole number, plus 1; as diffusers' DDIM and PNDM with `steps_offset=1`."""
        return np.arange(steps)[::-1] * (len(self.table) // steps) + 1

    def _trailing(self, steps: int) -> Int64[np.ndarray, "steps"]:
        """Evenly from the last timestep down, the end left out."""
        count = len(self.table)
        return (count - np.arange(steps) * count / steps).round().astype(np.int64) - 1


def _of(*processes: NoiseProcess) -> dict[str, NoiseProcess]:
    return {process.name: process for process in processes}


PROCESSES: dict[str, NoiseProcess] = _of(
    RectifiedFlow(),
    VariancePreserving("ddpm-linear", np.linspace(1e-4, 0.02, 1000)),
    VariancePreserving("ddpm-scaled-linear", np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
)


def noise_of(manifest: Mapping[str, Any]) -> NoiseProcess:
    """The noise process of a recorded run; files that name none are of rectified flow."""
    return PROCESSES[manifest.get("noise", "rectified-flow")]
