"""Training of mini's transformer on toy sizes: the schedule, a step, an interruption."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from mini import data, flow, nets, team
from mini.team import Team

TOY = flow.Shape(width=64, depth=2, compiled=False)
SCHEDULE = flow.Schedule(steps=4, batch=4, warm_up=2, sample_every=0)


@pytest.fixture(scope="module")
def latents():
    """Forty times one picture: what a few steps can learn."""
    one = np.random.default_rng(0).standard_normal((1, 16, 16, 16)).astype(np.float16)
    return np.repeat(one, 40, axis=0)


def trainer(folder, latents, schedule=SCHEDULE, of=Team()):  # noqa: B008  frozen
    folder.mkdir(exist_ok=True)
    code = nets.Latents(np.zeros(192, np.float32), np.eye(192, 16, dtype=np.float32))
    return flow.Trainer(folder, latents, code, schedule, TOY, of)


def train_in_team(of: Team, folder, latents) -> None:
    trainer(folder, latents, of=of).run()


def test_rate_warms_up_stays_and_decays_by_steps_or_by_time():
    plan = flow.Schedule(steps=1000, rate=1.0, warm_up=10, decay=0.5)
    assert plan.rate_at(0, 0.0) == pytest.approx(0.1)
    assert plan.rate_at(400, 1e9) == 1.0
    assert plan.rate_at(750, 0.0) == pytest.approx(0.51)
    assert plan.rate_at(1000, 0.0) is None
    plan = flow.Schedule(minutes=2, rate=1.0, warm_up=1, decay=0.5)
    assert [plan.rate_at(9, seconds) for seconds in (0, 60, 90)] == pytest.approx([1.0, 1.0, 0.51])
    assert plan.rate_at(9, 120.0) is None


def test_training_never_sees_held_out_combinations(tmp_path, latents):
    known = trainer(tmp_path, latents).known
    assert known and not any(item.held_out for _, item in known)
    assert [item for _, item in known] == [item for item in data.pictures(len(latents)) if not item.held_out]


def test_a_few_steps_lower_the_loss_of_a_fixed_batch(tmp_path, latents):
    made = trainer(tmp_path, latents, flow.Schedule(steps=40, batch=8, warm_up=1, sample_every=0))
    torch.manual_seed(0)
    clean = made.latents[:8].float()
    fixed = (clean, torch.randn_like(clean), torch.rand(8), torch.ones(8, 12, dtype=torch.int64))
    before = made.loss(*fixed).item()
    made.run()
    assert made.step == 40 and made.loss(*fixed).item() < 0.9 * before


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, latents):
    whole = trainer(tmp_path / "whole", latents)
    whole.run()
    first = trainer(tmp_path / "broken", latents)
    for _ in range(2):
        first._advance(SCHEDULE.rate_at(first.step, 0.0))
    first.save()
    second = trainer(tmp_path / "broken", latents)
    assert second.step == 2
    second.run()
    assert second.step == whole.step == 4
    for one, other in (whole.both, second.both), (whole.ema, second.ema):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_two_processes_train_as_one(tmp_path, latents):
    for workers in (1, 2):
        team.run(train_in_team, workers, 1, tmp_path / str(workers), latents)
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in "12")
    assert one["step"] == two["step"] == 4
    for name, value in one["both"].items():
        assert torch.allclose(value, two["both"][name], atol=2e-3), name


def test_progress_is_logged(tmp_path, latents):
    trainer(tmp_path, latents, flow.Schedule(steps=50, batch=1, sample_every=0)).run()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == {"step", "loss", "rate", "seconds"}


def test_patch_projection_equals_the_convolution():
    convolution = nn.Conv2d(16, 24, 2, stride=2)
    x = torch.randn(3, 16, 8, 8)
    assert torch.allclose(nets.PatchProjection(convolution)(x), convolution(x), atol=1e-5)
