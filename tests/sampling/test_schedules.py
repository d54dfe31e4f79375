"""Schedules against published values and closed forms, Euler against float64 NumPy."""

import mlx.core as mx
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from ditq.sampling.schedules import SCHEDULES, diffusionkit_sigmas, log_snr, shifted, uniform_sigmas
from ditq.sampling.steppers import euler, noise


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
    timesteps = 1000 * diffusionkit_sigmas(50, 3.0)[:-1]
    assert timesteps[0] == pytest.approx(1000.0)
    assert timesteps[-1] == pytest.approx(8.9286, abs=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_schedules_fall_from_one_to_zero(schedule, steps):
    sigmas = SCHEDULES[schedule](steps, 3.0)
    assert len(sigmas) == steps + 1 and sigmas[0] == pytest.approx(1.0) and sigmas[-1] == 0.0
    assert (np.diff(sigmas) < 0).all()


def test_shift_moves_the_log_snr_by_a_constant():
    sigma = np.linspace(0.1, 0.9, 9)
    assert np.allclose(log_snr(shifted(sigma, 3.0)), log_snr(sigma) - 2 * np.log(3.0))


def test_log_snr_values_and_bounds():
    assert log_snr(np.array([0.5]))[0] == 0.0
    assert log_snr(np.array([0.2]))[0] == pytest.approx(np.log((0.8 / 0.2) ** 2))
    assert np.allclose(log_snr(np.array([1.0, 0.0])), [-2 * np.log(999), 2 * np.log(999)])


def test_noise_depends_on_its_seed_alone():
    batch = noise([7, 8], 4, 6, 16)
    assert batch.shape == (2, 4, 6, 16)
    assert mx.array_equal(batch[1], noise([8], 4, 6, 16)[0])
    wanted = np.random.default_rng(8).standard_normal((4, 6, 16), dtype=np.float32)
    assert np.array_equal(np.array(batch[1]), wanted)
    assert abs(np.array(noise(range(40), 16, 16, 16)).std() - 1) < 0.01


def test_euler_equals_a_float64_loop():
    matrix = np.random.default_rng(0).standard_normal((16, 16)) * 0.1
    sigmas = diffusionkit_sigmas(20, 3.0)
    x = noise([0, 1], 4, 4, 16)
    wanted = np.array(x, np.float64)
    for i in range(20):
        wanted = wanted + (sigmas[i + 1] - sigmas[i]) * np.tanh(wanted @ matrix + sigmas[i])
    weights = mx.array(matrix.astype(np.float32))
    got = euler(lambda x, step: mx.tanh(x @ weights + float(sigmas[step])), x, sigmas)
    assert np.abs(np.array(got) - wanted).max() < 1e-5


def test_euler_is_exact_for_a_straight_path():
    data, start = noise([3], 4, 4, 16), noise([4], 4, 4, 16)
    got = euler(lambda x, step: start - data, start, uniform_sigmas(7, 3.0))
    assert mx.abs(got - data).max().item() < 1e-5


def test_on_step_sees_what_the_model_saw():
    seen, given = [], []

    def denoise(x, step):
        given.append(np.array(x))
        return x * (step + 1)

    last = euler(denoise, noise([0], 4, 4, 16), uniform_sigmas(3, 1.0), lambda *record: seen.append(record))
    assert [step for step, _, _ in seen] == [0, 1, 2]
    for (step, x, velocity), told in zip(seen, given, strict=True):
        assert np.array_equal(np.array(x), told) and np.allclose(np.array(velocity), told * (step + 1))
    assert np.allclose(np.array(last), given[-1] * (1 - 3 / 3), atol=1e-6)
