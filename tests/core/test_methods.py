"""Methods from names and fields: what is unknown or of another kind is named."""

import pytest

from ditq.core.errors import UserError
from ditq.weights import METHODS, RTN, AdaRound, built


def test_fields_replace_defaults():
    assert built(METHODS, "rtn", {"search": False}, "r") == RTN(search=False)
    assert built(METHODS, "adaround", {"iterations": 5, "lr": 1}, "r") == AdaRound(iterations=5, lr=1)
    assert built(METHODS, "gptq", {"damping": 0.5}, "r") == METHODS["gptq"](damping=0.5)
    qronos = built(METHODS, "qronos", {"damping": [0.1, 0.5], "act_order": False}, "r")
    assert qronos == METHODS["qronos"](damping=(0.1, 0.5), act_order=False)


def test_whole_numbers_become_floats_where_the_default_is_one():
    fields = {"drop": 1, "warmup": 0, "lr": 1, "iterations": 5}
    found = built(METHODS, "adaround", fields, "r")
    assert [type(getattr(found, name)) for name in fields] == [float, float, float, int]
    assert [type(amount) for amount in built(METHODS, "gptq", {"damping": [0, 1]}, "r").damping] == [
        float
    ] * 2
    assert type(built(METHODS, "qronos", {"damping": 1}, "r").damping) is float


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        (
            "awq",
            {},
            "recipe r: got awq; expected float or one of rtn, adaround, gptq, gptq-sequential, qronos",
        ),
        ("rtn", {"serach": True}, "recipe r: rtn: got serach; expected one of search"),
        ("rtn", {"search": 1}, "recipe r: rtn: search: got 1; expected a value like its default, True"),
        ("rtn", ["search"], "recipe r: rtn: got"),
        ("adaround", {"iterations": 2.5}, "iterations: got 2.5; expected a value like its default, 1000"),
        ("adaround", {"iterations": True}, "iterations: got True"),
        ("adaround", {"lr": "fast"}, "lr: got 'fast'"),
        ("gptq", {"damping": "adaptive"}, "damping: got 'adaptive'"),
        (
            "gptq",
            {"damping": -1},
            "recipe r: gptq: damping: got -1.0; expected one or more numbers from 0 on",
        ),
        ("gptq", {"damping": []}, "recipe r: gptq: damping: got ()"),
        ("gptq-sequential", {"damping": [-1]}, "recipe r: gptq-sequential: damping: got (-1.0,)"),
        ("qronos", {"damping": [-0.5, 1]}, "recipe r: qronos: damping: got (-0.5, 1.0)"),
        ("qronos", {"damping": [True]}, "recipe r: qronos: damping: got [True]"),
    ],
)
def test_what_does_not_fit_is_named(name, fields, says):
    with pytest.raises(UserError) as caught:
        built(METHODS, name, fields, "recipe r")
    assert says in str(caught.value)
