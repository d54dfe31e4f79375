"""The guided step: guidance by hand, compiled against eager, batches against single runs, no host sync."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.models.base import Conditioning, Network, RunInputs
from ditq.models.mmdit import MMDiT
from ditq.sampling import guidance as guidance_module
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import PROCESSES, diffusionkit_sigmas
from ditq.sampling.steppers import noise, sample
from tests.models.families import FAMILIES, inputs, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded

CONFIG = FAMILIES["sd3.5-medium"]
SIGMAS = diffusionkit_sigmas(4, 3.0)


@pytest.fixture(scope="module")
def network() -> MMDiT:
    return loaded(CONFIG, to_mlx(stability_weights(CONFIG)))


def conditioning(batch: int, seed: int) -> Conditioning:
    _, text, pooled = inputs(CONFIG, batch, 8, 8, seed)
    return Conditioning(mx.array(text), mx.array(pooled))


def test_guidance_is_the_extrapolation_of_two_single_runs(network):
    prompts, negative, x = conditioning(2, 3), conditioning(1, 4), noise([0, 1], 8, 8, 16)
    step = Denoiser(network, compiled=True).run(prompts, negative, SIGMAS, 5.0)(x, 2)
    alone = [
        np.array(Denoiser(network, compiled=False).run(one, None, SIGMAS, 0.0)(x, 2), np.float64)
        for one in (prompts, Conditioning(*(mx.repeat(a, 2, 0) for a in (negative.tokens, negative.pooled))))
    ]
    wanted = alone[1] + 5.0 * (alone[0] - alone[1])
    assert np.abs(np.array(step) - wanted).max() <= 1e-4


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_of_one_or_less_runs_the_prompt_alone(network, guidance):
    prompts, x = conditioning(1, 3), noise([0], 8, 8, 16)
    got = Denoiser(network).run(prompts, conditioning(1, 4), SIGMAS, guidance)(x, 0)
    assert mx.array_equal(got, Denoiser(network).run(prompts, None, SIGMAS, guidance)(x, 0))


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_compiled_equals_eager_at_every_step(network, guidance):
    prompts, negative, x = conditioning(2, 5), conditioning(1, 6), noise([0, 1], 8, 12, 16)
    compiled = Denoiser(network, compiled=True).run(prompts, negative, SIGMAS, guidance)
    eager = Denoiser(network, compiled=False).run(prompts, negative, SIGMAS, guidance)
    for step in range(4):
        assert mx.abs(compiled(x, step) - eager(x, step)).max().item() <= 1e-5


def test_three_prompts_at_once_equal_three_runs(network):
    prompts, negative = conditioning(3, 7), conditioning(1, 8)
    denoiser = Denoiser(network)

    def run(rows: slice) -> mx.array:
        x = noise(range(3)[rows], 8, 8, 16)
        return sample(denoiser.run(prompts[rows], negative, SIGMAS, 4.0), x, SIGMAS)

    together = run(slice(0, 3))
    for i in range(3):
        assert mx.abs(together[i] - run(slice(i, i + 1))[0]).max().item() <= 1e-4


def test_one_trace_serves_all_steps_and_guidances(network, monkeypatch):
    traces = []
    call = MMDiT.__call__
    monkeypatch.setattr(
        MMDiT, "__call__", lambda self, *args, **given: traces.append(1) or call(self, *args, **given)
    )
    denoiser, x = Denoiser(network, compiled=True), noise([0], 8, 8, 16)
    for guidance in (3.0, 7.5):
        denoise = denoiser.run(conditioning(1, 1), conditioning(1, 2), SIGMAS, guidance)
        sample(denoise, x, SIGMAS)
    assert len(traces) == 1


def test_a_step_never_asks_the_host(network, monkeypatch):
    denoise = Denoiser(network, compiled=False).run(conditioning(1, 1), conditioning(1, 2), SIGMAS, 3.0)
    x = noise([0], 8, 8, 16)

    def refuse(*_):
        raise AssertionError("the step evaluated an array")

    monkeypatch.setattr(mx, "eval", refuse)
    step = mx.compile(lambda x: denoise(x, 1))  # inside a trace, any .item() or np.array() would raise
    step(x)


def test_updated_weights_are_seen_by_the_compiled_step(network):
    fresh = loaded(CONFIG, to_mlx(stability_weights(CONFIG)))
    denoise = Denoiser(fresh, compiled=True).run(conditioning(1, 1), None, SIGMAS, 0.0)
    x = noise([0], 8, 8, 16)
    assert mx.abs(denoise(x, 0)).max().item() > 0
    zero = {"linear": {"weight": mx.zeros_like(fresh.final_layer.linear.weight), "bias": mx.zeros((64,))}}
    fresh.update({"final_layer": zero})
    assert mx.abs(denoise(x, 0)).max().item() == 0


def test_the_network_is_told_the_timesteps_of_the_noise_process(network, monkeypatch):
    told = []
    prepare = MMDiT.prepare
    monkeypatch.setattr(
        MMDiT, "prepare", lambda self, text, t: told.append(np.array(t)) or prepare(self, text, t)
    )
    ddpm = PROCESSES["ddpm-linear"]
    Denoiser(network).run(conditioning(1, 1), None, SIGMAS, 0.0)
    Denoiser(network, ddpm).run(conditioning(1, 1), None, ddpm.grids["leading"](4, 1.0), 0.0)
    assert np.array_equal(told[0], (1000 * SIGMAS[:-1]).astype(np.float32))
    assert np.array_equal(told[1], [751, 501, 251, 1])


class Clock:
    """Notes what it is asked to do."""

    def __init__(self):
        self.state, self.calls = [], []

    def follow(self, timesteps):
        self.timesteps = timesteps

    def set(self, step):
        self.calls.append(self.timesteps[step])


def test_the_step_clock_follows_each_run_whatever_the_order_of_steps(network, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(guidance_module, "clock_of", lambda network: clock)
    denoiser, x = Denoiser(network), noise([0], 8, 8, 16)
    long, short = (denoiser.run(conditioning(1, 1), None, sigmas, 0.0) for sigmas in (SIGMAS, SIGMAS[2:]))
    for denoise, step in ((long, 0), (short, 0), (long, 1), (short, 1), (long, 3)):
        denoise(x, step)
    assert clock.calls == [1000 * SIGMAS[i] for i in (0, 2, 1, 3, 3)]


class Masked(Network):
    """Predicts epsilon from text with a mask and without pooled text."""

    dtype = mx.float32

    def prepare(self, conditioning, timesteps):
        kept = (conditioning.tokens * conditioning.mask[..., None]).sum(axis=(1, 2))
        return RunInputs({"text": kept}, {"time": timesteps[:, None] + mx.zeros((1, len(conditioning)))})

    def __call__(self, x, text, time):
        return x * text[:, None, None, None] + time[:, None, None, None]


@pytest.mark.parametrize("compiled", [False, True])
def test_conditioning_with_a_mask_and_without_pooled_text_is_guided(compiled):
    prompts = Conditioning(
        mx.array([[[1.0], [2.0]], [[3.0], [4.0]]]), mask=mx.array([[1.0, 0.0], [1.0, 1.0]])
    )
    negative = Conditioning(mx.array([[[5.0], [6.0]]]), mask=mx.array([[0.0, 1.0]]))
    x = noise([0, 1], 2, 2, 4)
    got = Denoiser(Masked(), compiled=compiled).run(prompts, negative, SIGMAS, 3.0)(x, 1)
    weights = mx.array([6 + 3 * (1 - 6), 6 + 3 * (7 - 6)])[:, None, None, None]
    assert mx.allclose(got, x * weights + 1000 * SIGMAS[1], rtol=1e-5)
