"""A batch that is too large for memory: its parts lead where the whole leads."""

import mlx.core as mx
import numpy as np

from ditq.models import state
from ditq.weights import AdaRound
from ditq.weights.block_error import stream_powers
from ditq.weights.input_grids import inputs_of
from ditq.weights.reconstruction import Reconstruction
from ditq.weights.soft_rounding import start
from tests.weights.toy import toy_problem


def test_a_batch_in_parts_has_the_gradients_of_the_whole(monkeypatch):
    problem = toy_problem("up", 12)
    settings = AdaRound(
        iterations=3, batch_size=8, drop=1.0
    )  # every value is kept, so that chance has no part
    roundings, parts = {}, {}
    for path, spec in problem.specs.items():
        roundings[path], parts[path] = start(problem.weight(path), spec)
    inputs, powers = inputs_of(problem), stream_powers(problem)
    found = []
    for size in (1 << 21, 3 * sum(np.prod(problem.inputs[name].shape[1:]) for name in problem.carried)):
        monkeypatch.setattr(state, "BATCH_VALUES", int(size))
        reconstruction = Reconstruction(problem, roundings, inputs, powers, 1.0, settings)
        found.append(reconstruction.run(parts, np.arange(12), lambda *_: None, lambda learned: 0.0))
    assert len(list(problem.batches(np.arange(8)))) == 3
    (one, losses), (other, in_parts) = found
    np.testing.assert_allclose(losses, in_parts, rtol=1e-4)
    apart = [float(np.array(mx.abs(one["parts"][path] - other["parts"][path]).mean())) for path in parts]
    assert max(apart) < 1e-3  # a step of Adam moves each by 1e-2
