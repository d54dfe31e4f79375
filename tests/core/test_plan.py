"""A run that is resumed with other settings is told which: the innermost field that differs."""

import pytest

from ditq.core import plan
from ditq.core.errors import UserError

RECIPE = {"name": "mine", "methods": {"adaround": {"iterations": 200, "drop": 0.5}}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"methods": {"adaround": {"iterations": 300, "drop": 0.5}}},
            r"iterations: got 300; expected 200 as",
        ),
        (
            {"methods": {"adaround": {"drop": 0.5}}},
            r"recipe\.methods\.adaround\.iterations: got None; expected 200",
        ),
        ({"name": "other", "methods": {}}, r"recipe: got \{'name': 'other'"),
        ({"methods": None}, r"recipe\.methods: got None"),
    ],
)
def test_the_innermost_field_that_differs_is_named(tmp_path, change, says):
    path = tmp_path / "plan.json"
    plan.begin(path, {"seed": 0, "recipe": RECIPE}, False)
    plan.begin(path, {"seed": 0, "recipe": RECIPE}, True)
    with pytest.raises(UserError, match=says):
        plan.begin(path, {"seed": 0, "recipe": {**RECIPE, **change}}, True)
