"""Time and memory: what is counted, and what is kept."""

import numpy as np

from ditq.core.cost import process_memory
from ditq.evaluation.cost import Machine, measured_cost, store_cost, stored_cost
from ditq.sampling.generate import settings_for
from tests.evaluation.toy import Toy


class Clock:
    """Each reading is one more second than the last was."""

    def __init__(self):
        self.now, self.read = 0.0, 0

    def perf_counter(self):
        self.read += 1
        self.now += self.read
        return self.now


def test_the_first_picture_and_the_first_steps_do_not_count(monkeypatch):
    monkeypatch.setattr("ditq.evaluation.cost.time", Clock())
    model = Toy()
    cost = measured_cost("float", model, "one", 1, settings_for(model, steps=3), pictures=2)
    # a picture of 3 steps reads the clock 5 times, readings 6 to 10 and 11 to 15; each interval is its reading's number
    assert cost.seconds_per_step.median == np.median([8, 9, 13, 14])
    assert cost.seconds_per_picture.median == np.median([7 + 8 + 9 + 10, 12 + 13 + 14 + 15])
    assert cost.pictures == 2 and cost.dtype == "float32" and cost.alone
    assert cost.mlx_peak > 0 and 1e7 < process_memory() == cost.process_peak
    assert model.encoded == [2]


def test_a_run_of_one_step_has_that_step_s_time():
    model = Toy()
    assert (
        measured_cost("float", model, "one", 1, settings_for(model, steps=1), 1).seconds_per_step.median > 0
    )


def test_a_cost_is_kept_for_what_it_was_measured_on(tmp_path, monkeypatch):
    path, model = tmp_path / "cost.json", Toy()
    assert stored_cost(path, ["a"]) is None
    cost = measured_cost("float", model, "one", 1, settings_for(model, steps=2), 1)
    store_cost(path, ["a"], cost)
    assert stored_cost(path, ["a"]) == cost and stored_cost(path, ["b"]) is None
    monkeypatch.setattr(Machine, "__str__", lambda machine: "another machine")
    assert stored_cost(path, ["a"]) is None
    path.write_text("{}")
    assert stored_cost(path, ["a"]) is None
