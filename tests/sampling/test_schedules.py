"""Noise processes against published values, closed forms and the schedulers of diffusers."""

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ditq.sampling.schedules import PROCESSES, diffusionkit_sigmas, noise_of, shifted, uniform_sigmas

FLOW = PROCESSES["rectified-flow"]
TABLES = {
    "ddpm-linear": dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    "ddpm-scaled-linear": dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
}


def test_uniform_sigmas_are_shifted_even_steps():
    sigmas = uniform_sigmas(4, 3.0)
    assert np.allclose(sigmas, [1, 0.9, 0.75, 0.5, 0])
    assert np.allclose(uniform_sigmas(4, 1.0), [1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("steps", [3, 28, 50])
def test_diffusionkit_sigmas_equal_the_reference_scheduler(steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    assert np.allclose(diffusionkit_sigmas(steps, 3.0), scheduler.sigmas.numpy(), atol=1e-6)


def test_diffusionkit_timesteps_are_the_known_ones():
    timesteps = FLOW.timesteps(diffusionkit_sigmas(50, 3.0)[:-1])
    assert timesteps[0] == pytest.approx(1000.0)
    assert timesteps[-1] == pytest.approx(8.9286, abs=1e-3)


@pytest.mark.parametrize("schedule", FLOW.grids)
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_schedules_fall_from_one_to_zero(schedule, steps):
    sigmas = FLOW.grids[schedule](steps, 3.0)
    assert len(sigmas) == steps + 1 and sigmas[0] == pytest.approx(1.0) and sigmas[-1] == 0.0
    assert (np.diff(sigmas) < 0).all()


def test_shift_moves_the_log_snr_by_a_constant():
    sigma = np.linspace(0.1, 0.9, 9)
    assert np.allclose(FLOW.log_snr(shifted(sigma, 3.0)), FLOW.log_snr(sigma) - 2 * np.log(3.0))


def test_log_snr_values_and_bounds():
    assert FLOW.log_snr(np.array([0.5]))[0] == 0.0
    assert FLOW.log_snr(np.array([0.2]))[0] == pytest.approx(np.log((0.8 / 0.2) ** 2))
    assert np.allclose(FLOW.log_snr(np.array([1.0, 0.0])), [-2 * np.log(999), 2 * np.log(999)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_flow_timesteps_are_the_levels_times_1000_in_their_dtype(dtype):
    sigmas = diffusionkit_sigmas(7, 3.0).astype(dtype)
    assert np.array_equal(FLOW.timesteps(sigmas), dtype(1000) * sigmas)
    assert FLOW.timesteps(sigmas).dtype == dtype
    assert np.array_equal(FLOW.alphas(sigmas), 1 - sigmas)


@pytest.mark.parametrize("name", TABLES)
def test_ddpm_levels_equal_those_of_diffusers(name):
    process, reference = PROCESSES[name], DDIMScheduler(**TABLES[name])
    abar = reference.alphas_cumprod.numpy()
    sigmas = process.grids["trailing"](999, 1.0)[:-1]
    at = process.timesteps(sigmas).astype(int)
    assert np.allclose(process.alphas(sigmas), np.sqrt(abar[at]), atol=1e-6)
    assert np.allclose(sigmas, np.sqrt(1 - abar[at]), atol=1e-6)
    assert np.allclose(process.log_snr(sigmas), np.log(abar[at] / (1 - abar[at])), atol=1e-3)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ddpm_timesteps_are_exact_at_whole_ones_and_between_them_in_between(name, dtype):
    abar = np.cumprod(1 - DDIMScheduler(**TABLES[name]).betas.numpy().astype(np.float64))
    process = PROCESSES[name]
    every = np.sort(np.unique(np.concatenate([process.grids["leading"](999, 1.0)[:-1]])))
    assert np.array_equal(process.timesteps(every.astype(dtype)), np.arange(1, 1000))
    between = np.sqrt(1 - np.sqrt(abar[1:] * abar[:-1]))
    found = process.timesteps(between)
    assert (found > np.arange(999)).all() and (found < np.arange(1, 1000)).all()
    assert np.array_equal(process.timesteps(np.array([0.0, 1.0], dtype)), [0, 999])


def test_ddpm_log_snr_is_finite_at_both_ends():
    process = PROCESSES["ddpm-linear"]
    ends = process.grids["trailing"](1, 1.0)
    assert ends[-1] == 0 and process.log_snr(ends)[-1] == pytest.approx(np.log(0.9999 / 1e-4))
    assert process.log_snr(np.array([1.0]))[0] == process.log_snr(ends)[0]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("steps", [1, 3, 20, 50])
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers
def test_ddpm_grids_are_the_spacings_of_diffusers(name, steps):
    for spacing, reference in {
        "linspace": DPMSolverMultistepScheduler(**TABLES[name], timestep_spacing="linspace"),
        "leading": DDIMScheduler(**TABLES[name], timestep_spacing="leading", steps_offset=1),
        "trailing": DDIMScheduler(**TABLES[name], timestep_spacing="trailing"),
    }.items():
        reference.set_timesteps(steps)
        sigmas = PROCESSES[name].grids[spacing](steps, 1.0)
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0
        assert np.array_equal(PROCESSES[name].timesteps(sigmas[:-1]), reference.timesteps.numpy()), spacing


@pytest.mark.parametrize("name", TABLES)
def test_the_grid_of_stable_diffusion_ends_at_the_first_training_timestep(name):
    process = PROCESSES[name]
    sigmas = process.grids["stable-diffusion"](50, 1.0)
    assert np.array_equal(sigmas[:-1], process.grids["leading"](50, 1.0)[:-1])
    final = DDIMScheduler(**TABLES[name], set_alpha_to_one=False).final_alpha_cumprod
    assert sigmas[-1] == pytest.approx(np.sqrt(1 - final.item()), rel=1e-3)


@pytest.mark.parametrize("name", TABLES)
def test_ddpm_grids_fall_up_to_their_most_steps(name):
    process = PROCESSES[name]
    assert process.most_steps == 999
    for steps in (2, 7, 300, 501, 998, 999):
        for grid in process.grids.values():
            sigmas = grid(steps, 1.0)
            assert len(sigmas) == steps + 1 and (np.diff(sigmas) < 0).all()


def test_a_file_that_names_no_noise_process_is_of_rectified_flow():
    assert noise_of({}) is FLOW and noise_of({"noise": "ddpm-linear"}) is PROCESSES["ddpm-linear"]


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_levels_come_back_from_their_timesteps(name):
    process = PROCESSES[name]
    levels = process.sigmas(np.array([999.0, 500.0, 250.5, 7.25]))
    np.testing.assert_allclose(process.timesteps(levels), [999.0, 500.0, 250.5, 7.25], rtol=1e-9)
    assert process.sigmas(np.array([3.0], np.float32)).dtype == np.float32
