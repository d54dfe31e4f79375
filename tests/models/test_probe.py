"""What is measured of a model before its weights are loaded: of `mini`, and of a small one of SD3's shape."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.cost import Cost, Speed
from ditq.models import load, probe
from ditq.models.cost import block_shares, parameter_count
from ditq.models.mini.model import Mini
from ditq.models.mmdit import MMDiT, MMDiTConfig

CONFIG = MMDiTConfig(
    num_heads=2,
    depth_multimodal=3,
    hidden_size_override=32,
    max_latent_resolution=16,
    pooled_text_embed_dim=24,
    token_level_text_embed_dim=40,
)


class SD3Shaped(Mini):
    """The shape of SD3 with random weights; there are no others to load."""

    name = "sd3-shaped"
    geometry = CONFIG.geometry(factor=8, text_tokens=5)

    def __init__(self):
        super().__init__(dtype=mx.bfloat16)

    def network(self):
        raise AssertionError("a forecast loads no weights")

    def skeleton(self):
        return MMDiT(CONFIG)


def test_blocks_share_the_operations_of_a_pass():
    """By hand: a block multiplies every token by 12 h^2 weights; of the last one's text, only q, k and v are made."""
    model, h, image, text = SD3Shaped(), 32, 64, 5
    shares = list(block_shares(model.skeleton(), model.geometry, 16, 16).values())
    whole = 12 * h**2 * (image + text)
    assert shares[0] == shares[1] > shares[2]
    assert shares[2] / shares[0] == pytest.approx((whole - 9 * h**2 * text) / whole, rel=0.01)
    assert 0.8 < sum(shares) < 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_row_is_told_from_the_network_or_from_a_block(whole, monkeypatch):
    model, runs = SD3Shaped(), []
    monkeypatch.setattr(probe, "WHOLE", np.inf if whole else 0)
    monkeypatch.setattr(probe, "timed", lambda run: (run(), runs.append(run))[0] or 6.0)
    monkeypatch.setattr(probe, "_held", lambda run: 100)
    seconds, held = probe.row_cost(model.skeleton(), model, 4, 16, 16)
    share = 1 if whole else max(block_shares(model.skeleton(), model.geometry, 16, 16).values())
    assert seconds == pytest.approx(6 / share / 4) and held == 100 and len(runs) == 1


def test_large_batches_are_told_in_proportion(monkeypatch):
    model = SD3Shaped()
    flops = model.skeleton().step_flops(1, 16, 16, 5)
    monkeypatch.setattr(probe, "LARGEST", 2.5 * flops)
    monkeypatch.setattr(probe, "timed", lambda run: 6.0)
    monkeypatch.setattr(probe, "_held", lambda run: 100)
    assert probe.row_cost(model.skeleton(), model, 8, 16, 16) == (3.0, 400)


def test_no_weights_are_loaded_and_memory_counts_them(monkeypatch):
    monkeypatch.setattr(probe, "machine_speed", lambda rows: Speed(rows, 0, 0, 0, 0, 0))
    model = SD3Shaped()
    found = probe.probe(model, 2, 16, 16)
    assert found.weights == 2 * parameter_count(model.skeleton()) and found.batch > 0
    held = found.memory(Cost(memory=1e6)) - found.process - found.weights - found.batch
    assert held == pytest.approx(1e6, abs=1)
    assert found.seconds(Cost(rows=10)) == pytest.approx(found.start + 10 * found.speed.rows)


def test_a_batch_takes_the_memory_that_a_pass_takes():
    """The least that a block of `mini` holds at once is its MLP's output for every token of both streams."""
    model = load("mini")
    few, many = (probe.row_cost(model.skeleton(), model, rows, 16, 16)[1] for rows in (2, 8))
    assert many > 8 * 64 * 4 * 192 * 4 and 2 < many / few < 6
