"""Steppers against closed forms, a float64 loop and, step by step, the schedulers of diffusers."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

from ditq.sampling.schedules import PROCESSES, diffusionkit_sigmas, uniform_sigmas
from ditq.sampling.steppers import STEPPERS, noise, sample

FLOW, DDPM = PROCESSES["rectified-flow"], PROCESSES["ddpm-linear"]


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
    got = sample(lambda x, step: mx.tanh(x @ weights + float(sigmas[step])), x, sigmas)
    assert np.abs(np.array(got) - wanted).max() < 1e-5


def test_euler_is_exact_for_a_straight_path():
    data, start = noise([3], 4, 4, 16), noise([4], 4, 4, 16)
    got = sample(lambda x, step: start - data, start, uniform_sigmas(7, 3.0))
    assert mx.abs(got - data).max().item() < 1e-5


def test_on_step_sees_what_the_model_saw():
    seen, given = [], []

    def denoise(x, step):
        given.append(np.array(x))
        return x * (step + 1)

    last = sample(
        denoise, noise([0], 4, 4, 16), uniform_sigmas(3, 1.0), on_step=lambda *record: seen.append(record)
    )
    assert [step for step, _, _ in seen] == [0, 1, 2]
    for (step, x, velocity), told in zip(seen, given, strict=True):
        assert np.array_equal(np.array(x), told) and np.allclose(np.array(velocity), told * (step + 1))
    assert np.allclose(np.array(last), given[-1] * (1 - 3 / 3), atol=1e-6)


def point(process, sigmas, centre):
    """The exact prediction where all data is one point, by step."""
    alphas = process.alphas(sigmas)

    def epsilon(x, i):
        return (x - float(alphas[i]) * centre) / float(sigmas[i])

    return (lambda x, i: epsilon(x, i) - centre) if process is FLOW else epsilon


@pytest.mark.parametrize("process", [FLOW, DDPM])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_every_stepper_is_exact_where_all_data_is_one_point(process, stepper):
    grid = next(iter(process.grids.values()))
    sigmas, centre, start = grid(9, 1.0), noise([3], 2, 2, 4), noise([4], 2, 2, 4)
    alpha, sigma = float(process.alphas(sigmas[:1])[0]), float(sigmas[0])
    x = alpha * centre + sigma * start
    for count in range(2, len(sigmas) + 1):
        got = sample(point(process, sigmas, centre), x, sigmas[:count], stepper, process)
        last = float(process.alphas(sigmas)[count - 1]) * centre + float(sigmas[count - 1]) * start
        # the weights of PNDM's last noises add up to 6.7 in size, and so much more it rounds
        assert mx.abs(got - last).max().item() < (1.3e-4 if stepper == "pndm" else 2e-5)


def gaussian_error(stepper: str, process, steps: int, spread: float = 0.5) -> float:
    """How far a run over data N(0, spread^2) ends from the exact end, relative to it.

    There the ideal epsilon is sigma x / (alpha^2 spread^2 + sigma^2), and x / sqrt(alpha^2 spread^2 + sigma^2) is
    constant along the exact path. Steps are even in ln(alpha / sigma).
    """
    ratio = np.exp(-np.linspace(-2.0, 2.0, steps + 1))  # sigma / alpha
    sigmas = ratio / (1 + ratio) if process is FLOW else ratio / np.sqrt(1 + ratio**2)
    alphas = process.alphas(sigmas)
    width = np.sqrt((alphas * spread) ** 2 + sigmas**2)
    slope = sigmas / width**2
    if process is FLOW:
        slope = slope - alphas * (spread / width) ** 2  # noise - data
    x = mx.ones((1, 1, 1, 1))
    got = sample(lambda x, i: float(slope[i]) * x, x, sigmas, stepper, process)
    return abs(got.item() / (width[-1] / width[0]) - 1)


@pytest.mark.parametrize("process", [FLOW, DDPM])
@pytest.mark.parametrize(("stepper", "order"), [("euler", 1), ("ddim", 1), ("dpm++2m", 2), ("pndm", 2)])
def test_the_error_on_a_gaussian_falls_with_the_stepper_s_order(process, stepper, order):
    errors = [gaussian_error(stepper, process, steps) for steps in (32, 64, 128)]
    for coarse, fine in pairwise(errors):
        assert order - 0.15 < np.log2(coarse / fine) < order + 0.6
    assert errors[-1] < {1: 3e-2, 2: 1e-3}[order]


def model(x, timestep):
    """Some prediction, on torch tensors or float64 arrays alike."""
    return x * 0.7 + 0.1 * x**2 / (1 + x**2) + timestep / 4000


def against(scheduler, stepper: str, process, tolerance: float = 1e-6) -> None:
    """Steps our stepper and a scheduler of diffusers side by side, each time from the scheduler's latents."""
    if getattr(scheduler.config, "use_flow_sigmas", False):
        sigmas = scheduler.sigmas.numpy().astype(np.float64)
    elif isinstance(scheduler, DDIMScheduler):
        sigmas = np.append(np.sqrt(1 - scheduler.alphas_cumprod[scheduler.timesteps].numpy()), 0.0)
    else:
        ratio = scheduler.sigmas.numpy().astype(np.float64)
        sigmas = ratio / np.sqrt(1 + ratio**2)
    steps = STEPPERS[stepper](process, sigmas, process.prediction)
    x = torch.from_numpy(np.array(noise([5, 6], 4, 4, 4)))
    for i, timestep in enumerate(scheduler.timesteps):
        predicted = model(x, timestep)
        got = steps.step(mx.array(x.numpy()), mx.array(predicted.numpy()), i)
        x = scheduler.step(predicted, timestep, x).prev_sample
        assert np.abs(np.array(got) - x.numpy()).max() <= tolerance * max(1.0, x.abs().max().item()), i


LINEAR = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("stepper", ["ddim", "euler"])
def test_ddim_equals_diffusers_step_by_step(spacing, stepper):
    scheduler = DDIMScheduler(**LINEAR, timestep_spacing=spacing, steps_offset=1, clip_sample=False)
    scheduler.alphas_cumprod = torch.from_numpy(1 - DDPM.table**2)  # float64, as ours
    scheduler.set_timesteps(20)
    against(scheduler, stepper, DDPM)


SCALED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
STABLE = dict(steps_offset=1, set_alpha_to_one=False, timestep_spacing="leading")


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 50])
@pytest.mark.parametrize("stepper", ["pndm", "ddim"])
def test_the_schedulers_of_stable_diffusion_are_followed_to_the_end(stepper, steps):
    process = PROCESSES["ddpm-scaled-linear"]
    if stepper == "pndm":
        scheduler = PNDMScheduler(**SCALED, **STABLE, skip_prk_steps=True)
    else:
        scheduler = DDIMScheduler(**SCALED, **STABLE, clip_sample=False)
    scheduler.alphas_cumprod = torch.from_numpy(1 - process.table**2)  # float64, as ours
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    sigmas, calls = process.grids["stable-diffusion"](steps, 1.0), []
    timesteps = process.timesteps(sigmas)

    def denoise(x, step):
        calls.append(round(timesteps[step]))
        return mx.array(model(torch.from_numpy(np.array(x)), timesteps[step]).numpy())

    seen = []
    x = noise([5, 6], 4, 4, 4)
    got = sample(denoise, x, sigmas, stepper, process, lambda step, *_: seen.append(step))
    y = torch.from_numpy(np.array(x))
    for timestep in scheduler.timesteps:
        y = scheduler.step(model(y, timestep), timestep, y).prev_sample
    assert calls == scheduler.timesteps.tolist() and seen == list(range(steps))
    assert np.abs(np.array(got) - y.numpy()).max() <= 1e-6 * max(1.0, y.abs().max().item())


def test_pndm_equals_diffusers_step_by_step():
    """Each step from the scheduler's own latents; the first one is two of its calls."""
    scheduler = PNDMScheduler(**LINEAR, **STABLE, skip_prk_steps=True)
    scheduler.alphas_cumprod = torch.from_numpy(1 - DDPM.table**2)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(20)
    sigmas = DDPM.grids["stable-diffusion"](20, 1.0)
    steps, times = STEPPERS["pndm"](DDPM, sigmas, "epsilon"), iter(scheduler.timesteps)
    x = torch.from_numpy(np.array(noise([5, 6], 4, 4, 4)))
    for i in range(20):
        now = next(times)
        predicted = model(x, now)
        ahead = scheduler.timesteps[i + 1] if i < 19 else None
        got = steps.step(
            mx.array(x.numpy()),
            mx.array(predicted.numpy()),
            i,
            lambda y, t=ahead: mx.array(model(torch.from_numpy(np.array(y)), t).numpy()),
        )
        x = scheduler.step(predicted, now, x).prev_sample
        if i == 0:
            now = next(times)
            x = scheduler.step(model(x, now), now, x).prev_sample
        assert np.abs(np.array(got) - x.numpy()).max() <= 1e-6 * max(1.0, x.abs().max().item()), i


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@pytest.mark.parametrize("last", ["zero", "sigma_min"])
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers
def test_dpm_solver_equals_diffusers_step_by_step(steps, last):
    scheduler = DPMSolverMultistepScheduler(**LINEAR, timestep_spacing="linspace", final_sigmas_type=last)
    scheduler.set_timesteps(steps)
    against(scheduler, "dpm++2m", DDPM)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers
def test_dpm_solver_on_rectified_flow_equals_diffusers(steps):
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.set_timesteps(steps)
    against(scheduler, "dpm++2m", FLOW)


def test_dpm_solver_starts_from_pure_noise():
    """At sigma = 1 nothing of the data is left: the step's growth of ln(alpha / sigma) is infinite."""
    data, start = noise([3], 2, 2, 4), noise([4], 2, 2, 4)
    got = sample(lambda x, step: start - data, start, uniform_sigmas(1, 3.0), "dpm++2m")
    assert mx.abs(got - data).max().item() < 1e-6
