"""The guided denoise step: compiled once per shape; what depends on prompts and timesteps is computed once per run."""

from collections.abc import Callable

import mlx.core as mx
from jaxtyping import Float

from ditq.models.base import Conditioning, Network
from ditq.nn.clock import clock_of
from ditq.sampling.schedules import PROCESSES, NoiseProcess, Sigmas
from ditq.sampling.steppers import Latents

Inputs = dict[str, mx.array]
"""What the network is given beside the latents at one step."""


class Denoiser:
    """Makes `denoise(x, step)` functions, all from one compiled step of `network`.

    The step reads the network's parameters when it is called, so an update of their values is seen; build a new
    Denoiser after replacing modules. A network with quantized layers has a step clock: each step makes it follow its
    run's timesteps and sets it, without a new trace. `process` says which timesteps belong to noise levels. `compiled`
    None compiles on a GPU and not on a CPU, where MLX's fused loops are slower than its plain ones
    (benchmarks/denoise_step.py shows both).
    """

    def __init__(
        self,
        network: Network,
        process: NoiseProcess = PROCESSES["rectified-flow"],
        compiled: bool | None = None,
    ):
        self.network, self.process = network, process
        if compiled is None:
            compiled = mx.default_device().type == mx.DeviceType.gpu
        self._clock = clock_of(network)
        self._guided, self._plain = self._guided_step, self._plain_step
        if compiled:
            state = [network.state, [] if self._clock is None else self._clock.state]
            self._guided = mx.compile(self._guided_step, inputs=state)
            self._plain = mx.compile(self._plain_step, inputs=state)

    def run(
        self, prompts: Conditioning, negative: Conditioning | None, sigmas: Sigmas, guidance: float
    ) -> Callable[[Latents, int], Latents]:
        """The `denoise(x, step)` of one run over `sigmas`, one picture per prompt; it returns float32 predictions.

        Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): negative + guidance * (prompt - negative), in
        one batch [prompts, negatives]. At guidance <= 1, or without `negative`, only the prompts are run. A
        `negative` of one row serves all prompts.
        """
        guided = guidance > 1 and negative is not None
        both = prompts.beside(negative) if guided and negative is not None else prompts
        timesteps = self.process.timesteps(sigmas[:-1])
        clock = self._clock
        if clock is not None:
            clock.follow(timesteps)
        inputs = self.network.prepare(both, mx.array(timesteps, dtype=mx.float32))
        dtype, weight = self.network.dtype, mx.array(guidance, dtype=mx.float32)
        mx.eval(inputs.constant, inputs.by_step)

        def denoise(x: Latents, step: int) -> Latents:
            x = x.astype(dtype)
            if clock is not None:
                clock.follow(timesteps)  # another run may have come between
                clock.set(step)
            if guided:
                return self._guided(x, inputs.at(step), weight)
            return self._plain(x, inputs.at(step)).astype(mx.float32)

        return denoise

    def _plain_step(self, x: Latents, inputs: Inputs) -> Latents:
        return self.network(x, **inputs)

    def _guided_step(self, x: Latents, inputs: Inputs, guidance: Float[mx.array, ""]) -> Latents:
        predicted = self.network(mx.concatenate([x, x]), **inputs).astype(mx.float32)
        prompt, negative = mx.split(predicted, 2)
        return negative + guidance * (prompt - negative)
