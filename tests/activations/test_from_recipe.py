"""What a recipe's line about activations stands for."""

from dataclasses import dataclass

import numpy as np
import pytest

from ditq.activations import (
    METHODS,
    ByError,
    ByTier,
    Decision,
    Fixed,
    LogSNRGrid,
    PerTimestep,
    Smoothing,
    Static,
    described,
    method_for,
    read_quant_config,
    write_quant_config,
)
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.diagnostics import DamageRecipe
from tests.activations.invented import folder, weights_of


def test_words_become_a_method():
    assert method_for(None, Spec(4), "r") is None
    plain = method_for({"bits": 8}, Spec(4), "r")
    assert (
        type(plain) is PerTimestep
        and method_for({"bits": 8, "method": "per-timestep"}, Spec(4), "r") == plain
    )
    assert plain.bits == Fixed(8) and plain.smoothing.policy == "none" and plain.smoothing.weights == Spec(4)
    assert method_for({"bits": "tiers", "smooth": "foldable"}, Spec(4), "r").bits == ByTier()
    budget = method_for({"bits": "error", "average_bits": 5, "scale": "max", "shift_gain": 0.1}, Spec(4), "r")
    assert (budget.bits, budget.how, budget.shift_gain) == (ByError(5.0), "max", 0.1)
    static = method_for({"method": "static", "bits": 8, "norm": 2}, Spec(4), "r")
    assert static == Static(Fixed(8), norm=2.0, smoothing=Smoothing("none"))
    by = method_for({"bits": 8, "damage": {"num_images": 2}}, Spec(4), "r")
    assert isinstance(by, PerTimestep) and by.measure == DamageRecipe(num_images=2) and by.damage is None
    timed = method_for({"bits": 8, "time_gain": 0.5}, Spec(4), "r")
    assert isinstance(timed, PerTimestep) and timed.time_gain == 0.5


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"bits": "half"}, "r: activations: bits: got 'half'; expected from 2 to 8"),
        ({"bits": True}, "bits: got true"),
        ({}, "bits: "),
        ({"bits": 9}, "got 9; expected from 2 to 8"),
        ({"bits": 8, "average_bits": 5}, "average_bits: got 5"),
        ({"bits": 8, "scale": "abs"}, "scale: got 'abs'; expected mse or max"),
        ({"bits": 8, "smooth": "some"}, "smooth: got 'some'"),
        ({"bits": 8, "shift_gain": "x"}, "shift_gain: got 'x'"),
        ({"bits": 8, "colour": 1}, "got colour; expected some of bits"),
        ({"bits": 8, "norm": 0.5}, "norm: got 0.5; expected at least 1"),
        ({"bits": 8, "method": "dynamic"}, "method: got 'dynamic'; expected one of per-timestep, static"),
        ({"bits": 8, "method": "static", "time_gain": 0.1}, "got time_gain; expected some of bits"),
        (
            {"bits": 8, "damage": {"colour": 1}},
            "activations: damage: damage: got colour; expected one of num_images",
        ),
        ([8], "activations: got [8]"),
    ],
)
def test_other_words_are_named(asked, says):
    with pytest.raises(UserError) as caught:
        method_for(asked, Spec(4), "r")
    assert says in str(caught.value)


@dataclass(frozen=True)
class Halving:
    """A method that looks at nothing: the step size halves with every factor of e in the signal-to-noise ratio."""

    first: float = 1.0
    bits: int = 8

    def cost(self, inputs, steps):
        return Cost()

    def decide(self, statistics, weights, on_step=lambda: None):
        grid = LogSNRGrid(np.array([self.first, -1.0]), self.bits, statistics.noise.name)
        return Decision.of(statistics, dict.fromkeys(statistics.groups, grid))


def test_an_invented_method_needs_one_line_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "halving", Halving)
    method = method_for({"method": "halving", "first": -2}, Spec(4), "r")
    assert method == Halving(-2, 8) and described(method) == {"name": "halving", "first": -2, "bits": 8}
    with pytest.raises(UserError, match="r: activations: halving: got colour; expected one of first, bits"):
        method_for({"method": "halving", "colour": 1}, Spec(4), "r")
    statistics = folder(tmp_path)
    decision = method.decide(statistics, weights_of)
    write_quant_config(tmp_path / "quant_config.json", statistics, decision, {"method": described(method)})
    table = read_quant_config(tmp_path / "quant_config.json")
    assert set(table.grids) == set(statistics.layers)
    for layer, grid in table.grids.items():
        rows, known = grid.at(table.timesteps), decision.grids[statistics.layers[layer]].at(table.timesteps)
        assert rows.scale.tolist() == known.scale.tolist() and rows.bits == known.bits == [8, 8, 8]


def test_methods_are_described_as_their_files_always_did():
    told = described(PerTimestep(ByError(5.0)))
    assert list(told) == ["bits", "range", "norm", "smoothing", "shift_gain", "time_gain"]
    assert told["bits"] == {"by": "ByError", "average_bits": 5.0}
    assert described(Static(Fixed(8)))["name"] == "static"
