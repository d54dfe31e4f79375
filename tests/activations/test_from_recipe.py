"""What a recipe's line about activations stands for."""

import pytest

from ditq.activations import ByError, ByTier, Fixed
from ditq.activations.from_recipe import analysis_for
from ditq.core.errors import UserError
from ditq.core.spec import Spec


def test_words_become_an_analysis():
    assert analysis_for(None, Spec(4), "r") is None
    plain = analysis_for({"bits": 8}, Spec(4), "r")
    assert plain.bits == Fixed(8) and plain.smoothing.policy == "none" and plain.smoothing.weights == Spec(4)
    assert analysis_for({"bits": "tiers", "smooth": "foldable"}, Spec(4), "r").bits == ByTier()
    budget = analysis_for(
        {"bits": "error", "average_bits": 5, "scale": "max", "shift_gain": 0.1}, Spec(4), "r"
    )
    assert (budget.bits, budget.how, budget.shift_gain) == (ByError(5.0), "max", 0.1)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"bits": "half"}, "r: activations: bits: got half; expected from 2 to 8"),
        ({"bits": True}, "bits: got True"),
        ({}, "bits: "),
        ({"bits": 9}, "got 9; expected from 2 to 8"),
        ({"bits": 8, "average_bits": 5}, "average_bits: got 5"),
        ({"bits": 8, "scale": "abs"}, "scale: got abs; expected mse or max"),
        ({"bits": 8, "smooth": "some"}, "smooth: got some"),
        ({"bits": 8, "shift_gain": "x"}, "shift_gain: got x"),
        ({"bits": 8, "colour": 1}, "got colour; expected some of bits"),
        ([8], "activations: got [8]"),
    ],
)
def test_other_words_are_named(asked, says):
    with pytest.raises(UserError) as caught:
        analysis_for(asked, Spec(4), "r")
    assert says in str(caught.value)
