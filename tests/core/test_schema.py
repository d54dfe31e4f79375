"""JSON is held against its shape: nothing is converted, and a message names the key, found and expected."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, TypedDict

import pytest

from ditq.core.errors import UserError
from ditq.core.schema import FILLED, above, at_least, checked, shown, within


@dataclass(frozen=True)
class Line:
    paths: Annotated[tuple[str, ...], FILLED]
    bits: Annotated[int, within(2, 8)]
    group_size: Literal[32, 64, 128] | None = None
    symmetric: bool = True


class Part(TypedDict, total=False):
    damping: Annotated[float, above(0)]


class Content(TypedDict):
    layers: list[Line]
    methods: dict[str, Part]


LINE = {"paths": ["*"], "bits": 4}


def test_what_fits_comes_back_as_it_is():
    line = checked({**LINE, "group_size": 64}, Line, "a.json")
    assert line == Line(("*",), 4, 64)
    given = {"layers": [LINE], "methods": {"gptq": {"damping": 1, "other": [None]}}, "about": "x"}
    found = checked(given, Content, "a.json")
    assert found == {**given, "layers": [Line(("*",), 4)]} and isinstance(
        found["methods"]["gptq"].get("damping"), int
    )
    assert checked([1, "a"], tuple[int, str], "x") == (1, "a")
    assert checked([[1], 2.5, None], list[list[int] | float | None], "x") == [[1], 2.5, None]
    assert checked({"a": 1}, Any, "x") == {"a": 1} and checked([1], list, "x") == [1]
    assert checked(None, Optional[Annotated[int, at_least(1)]], "x") is None  # noqa: UP045


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (
            {**LINE, "paths": "*.fc1"},
            Line,
            "f: paths: got '*.fc1'; expected a list of texts; write [\"*.fc1\"]",
        ),
        ({**LINE, "paths": []}, Line, "f: paths: got []; expected a list of texts with one entry at least"),
        ({**LINE, "paths": ["a", 3]}, Line, "f: paths[1]: got 3; expected a text"),
        ({**LINE, "bits": 4.0}, Line, "f: bits: got 4.0; expected a whole number, without a decimal point"),
        ({**LINE, "bits": True}, Line, "f: bits: got true; expected a whole number"),
        ({**LINE, "bits": 9}, Line, "f: bits: got 9; expected a whole number…from 2 to 8"),
        ({**LINE, "group_size": 64.0}, Line, "f: group_size: got 64.0; expected 32 or 64 or 128 or null"),
        ({**LINE, "symmetric": 1}, Line, "f: symmetric: got 1; expected true or false"),
        (
            {**LINE, "simetric": True},
            Line,
            "f: got the unknown key 'simetric'; expected only paths…symmetric meant",
        ),
        ({"bits": 4}, Line, "f: paths: got nothing: the key is missing; expected a list of texts"),
        ([LINE], Line, 'f: got [{"paths": ["*"], "bits": 4}]; expected an object'),
        ({"layers": [LINE, {}], "methods": {}}, Content, "f: layers[1]: paths: got nothing"),
        ({"layers": [], "methods": []}, Content, "f: methods: got []; expected an object"),
        (
            {"layers": [], "methods": {"g": {"damping": 0}}},
            Content,
            "f: methods: g: damping: got 0; …above 0",
        ),
        (float("nan"), float, "f: got NaN; expected a finite number"),
        (float("inf"), float | None, "f: got Infinity; expected a finite number or null"),
        (2**70, int, "f: got 1180591620717411303424; expected a whole number"),
        (10**400, float, "f: got 1000…; expected a finite number"),
        ([1, 2, 3], tuple[int, str], "f: got 3 entries; expected 2"),
        (None, str, "f: got null; expected a text"),
        ("4", Literal[4], "f: got '4'; expected 4"),
        (True, Literal[1], "f: got true; expected 1"),
        ({1: 2}, dict[str, int], 'f: got {"1": 2}; expected an object'),
        ([{"a": 1.5}], list[dict[str, int]], "f[0]: a: got 1.5; expected a whole number"),
    ],
)
def test_what_does_not_fit_is_named(value, shape, message):
    with pytest.raises(UserError) as caught:
        checked(value, shape, "f")
    parts = [re.escape(part) for part in message.split("…")]
    assert re.match(".*".join(parts), str(caught.value)), str(caught.value)


def test_long_values_are_cut():
    assert len(shown("x" * 500)) == 60 and shown([1, None]) == "[1, null]"
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) <= 60
