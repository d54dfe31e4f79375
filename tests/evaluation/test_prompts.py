"""What is evaluated was not calibrated on."""

import pytest

from ditq.calibration import default_prompts
from ditq.core.errors import UserError
from ditq.evaluation import evaluation_prompts


@pytest.mark.parametrize("model", ["mini", "sd3-medium"])
def test_prompts_are_many_distinct_and_not_those_of_calibration(model):
    prompts = evaluation_prompts(model)
    assert len(set(prompts)) == len(prompts) >= 32
    assert not set(prompts) & set(default_prompts(model))


def test_some_are_picked_from_the_whole_list():
    every = evaluation_prompts("mini")
    some = evaluation_prompts("mini", 8)
    assert len(some) == 8 and set(some) <= set(every) and some != every[:8]
    assert evaluation_prompts("mini", len(every)) == every
    with pytest.raises(UserError, match="from 1 to 64"):
        evaluation_prompts("mini", 65)
