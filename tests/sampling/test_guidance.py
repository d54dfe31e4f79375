"""The guided step: guidance by hand, compiled against eager, batches against single runs, no host sync."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.models.base import Conditioning
from ditq.models.mmdit import MMDiT
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import diffusionkit_sigmas
from ditq.sampling.steppers import euler, noise
from tests.models.families import FAMILIES, inputs, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded

CONFIG = FAMILIES["sd3.5-medium"]
SIGMAS = diffusionkit_sigmas(4, 3.0)


@pytest.fixture(scope="module")
def mmdit() -> MMDiT:
    return loaded(CONFIG, to_mlx(stability_weights(CONFIG)))


def conditioning(batch: int, seed: int) -> Conditioning:
    _, text, pooled = inputs(CONFIG, batch, 8, 8, seed)
    return Conditioning(mx.array(text), mx.array(pooled))


def test_guidance_is_the_extrapolation_of_two_single_runs(mmdit):
    prompts, negative, x = conditioning(2, 3), conditioning(1, 4), noise([0, 1], 8, 8, 16)
    step = Denoiser(mmdit, compiled=True).run(prompts, negative, SIGMAS, 5.0)(x, 2)
    alone = [
        np.array(Denoiser(mmdit, compiled=False).run(one, None, SIGMAS, 0.0)(x, 2), np.float64)
        for one in (prompts, Conditioning(*(mx.repeat(a, 2, 0) for a in (negative.tokens, negative.pooled))))
    ]
    wanted = alone[1] + 5.0 * (alone[0] - alone[1])
    assert np.abs(np.array(step) - wanted).max() <= 1e-4


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_of_one_or_less_runs_the_prompt_alone(mmdit, guidance):
    prompts, x = conditioning(1, 3), noise([0], 8, 8, 16)
    got = Denoiser(mmdit).run(prompts, conditioning(1, 4), SIGMAS, guidance)(x, 0)
    assert mx.array_equal(got, Denoiser(mmdit).run(prompts, None, SIGMAS, guidance)(x, 0))


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_compiled_equals_eager_at_every_step(mmdit, guidance):
    prompts, negative, x = conditioning(2, 5), conditioning(1, 6), noise([0, 1], 8, 12, 16)
    compiled = Denoiser(mmdit, compiled=True).run(prompts, negative, SIGMAS, guidance)
    eager = Denoiser(mmdit, compiled=False).run(prompts, negative, SIGMAS, guidance)
    for step in range(4):
        assert mx.abs(compiled(x, step) - eager(x, step)).max().item() <= 1e-5


def test_three_prompts_at_once_equal_three_runs(mmdit):
    prompts, negative = conditioning(3, 7), conditioning(1, 8)
    denoiser = Denoiser(mmdit)

    def run(rows: slice) -> mx.array:
        x = noise(range(3)[rows], 8, 8, 16)
        return euler(denoiser.run(prompts[rows], negative, SIGMAS, 4.0), x, SIGMAS)

    together = run(slice(0, 3))
    for i in range(3):
        assert mx.abs(together[i] - run(slice(i, i + 1))[0]).max().item() <= 1e-4


def test_one_trace_serves_all_steps_and_guidances(mmdit, monkeypatch):
    traces = []
    call = MMDiT.__call__
    monkeypatch.setattr(MMDiT, "__call__", lambda self, *args: traces.append(1) or call(self, *args))
    denoiser, x = Denoiser(mmdit, compiled=True), noise([0], 8, 8, 16)
    for guidance in (3.0, 7.5):
        denoise = denoiser.run(conditioning(1, 1), conditioning(1, 2), SIGMAS, guidance)
        euler(denoise, x, SIGMAS)
    assert len(traces) == 1


def test_a_step_never_asks_the_host(mmdit, monkeypatch):
    denoise = Denoiser(mmdit, compiled=False).run(conditioning(1, 1), conditioning(1, 2), SIGMAS, 3.0)
    x = noise([0], 8, 8, 16)

    def refuse(*_):
        raise AssertionError("the step evaluated an array")

    monkeypatch.setattr(mx, "eval", refuse)
    step = mx.compile(lambda x: denoise(x, 1))  # inside a trace, any .item() or np.array() would raise
    step(x)


def test_updated_weights_are_seen_by_the_compiled_step(mmdit):
    fresh = loaded(CONFIG, to_mlx(stability_weights(CONFIG)))
    denoise = Denoiser(fresh, compiled=True).run(conditioning(1, 1), None, SIGMAS, 0.0)
    x = noise([0], 8, 8, 16)
    assert mx.abs(denoise(x, 0)).max().item() > 0
    zero = {"linear": {"weight": mx.zeros_like(fresh.final_layer.linear.weight), "bias": mx.zeros((64,))}}
    fresh.update({"final_layer": zero})
    assert mx.abs(denoise(x, 0)).max().item() == 0
