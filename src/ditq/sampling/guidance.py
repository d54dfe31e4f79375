"""The guided denoise step of a transformer: compiled once per shape, modulation computed once per run."""

from collections.abc import Callable

import mlx.core as mx
from jaxtyping import Float

from ditq.models.base import Conditioning
from ditq.models.mmdit import MMDiT
from ditq.nn import clock_of
from ditq.sampling.schedules import Sigmas
from ditq.sampling.steppers import Latents


class Denoiser:
    """Makes `denoise(x, step)` functions, all from one compiled step of `mmdit`.

    The step reads the transformer's parameters when it is called, so an update of their values is seen; build a new
    Denoiser after replacing modules. A transformer with quantized layers has a step clock: each step puts it on the row
    that was calibrated nearest to its timestep, without a new trace.
    `compiled` None compiles on a GPU and not on a CPU, where MLX's fused loops are slower than its plain ones
    (benchmarks/denoise_step.py shows both).
    """

    def __init__(self, mmdit: MMDiT, compiled: bool | None = None):
        self.mmdit = mmdit
        if compiled is None:
            compiled = mx.default_device().type == mx.DeviceType.gpu
        self._clock = clock_of(mmdit)
        self._guided, self._plain = self._guided_step, mmdit.__call__
        if compiled:
            state = [mmdit.state, [] if self._clock is None else self._clock.state]
            self._guided = mx.compile(self._guided_step, inputs=state)
            self._plain = mx.compile(mmdit.__call__, inputs=state)

    def run(
        self, prompts: Conditioning, negative: Conditioning | None, sigmas: Sigmas, guidance: float
    ) -> Callable[[Latents, int], Latents]:
        """The `denoise(x, step)` of one run over `sigmas`, one picture per prompt; it returns float32 velocities.

        Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): negative + guidance * (prompt - negative), in
        one batch [prompts, negatives]. At guidance <= 1, or without `negative`, only the prompts are run. A
        `negative` of one row serves all prompts.
        """
        guided = guidance > 1 and negative is not None
        both = _stack(prompts, negative) if guided and negative is not None else prompts
        timesteps = 1000 * sigmas[:-1]
        clock = self._clock
        rows = None if clock is None else clock.follow(timesteps)
        modulation = self.mmdit.modulation(both.pooled, mx.array(timesteps, dtype=mx.float32))
        dtype = modulation.dtype
        tokens, weight = both.tokens.astype(dtype), mx.array(guidance, dtype=mx.float32)
        mx.eval(modulation, tokens)

        def denoise(x: Latents, step: int) -> Latents:
            x = x.astype(dtype)
            if clock is not None and rows is not None:
                clock.set(int(rows[step]))
            if guided:
                return self._guided(x, tokens, modulation[step], weight)
            return self._plain(x, tokens, modulation[step]).astype(mx.float32)

        return denoise

    def _guided_step(
        self, x: Latents, tokens: mx.array, modulation: mx.array, guidance: Float[mx.array, ""]
    ) -> Float[mx.array, "batch height width channels"]:
        velocity = self.mmdit(mx.concatenate([x, x]), tokens, modulation).astype(mx.float32)
        prompt, negative = mx.split(velocity, 2)
        return negative + guidance * (prompt - negative)


def _stack(prompts: Conditioning, negative: Conditioning) -> Conditioning:
    rows = len(prompts)
    tokens, pooled = (mx.broadcast_to(x, (rows, *x.shape[1:])) for x in (negative.tokens, negative.pooled))
    return Conditioning(mx.concatenate([prompts.tokens, tokens]), mx.concatenate([prompts.pooled, pooled]))
