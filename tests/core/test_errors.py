"""Messages say what, got, expected and remedy, and can be printed whatever they quote."""

import pytest

from ditq.core.errors import DitqError, UserError


def test_the_parts_of_a_message():
    error = UserError("--steps", got=0, expected="at least 1", remedy="leave it out")
    assert str(error) == "--steps: got 0; expected at least 1; leave it out" and error.exit_code == 2
    assert str(UserError("no model")) == "no model"


@pytest.mark.parametrize(
    ("quoted", "shown"), [("\x1b[2J", r"\x1b[2J"), ("a\0", r"a\x00"), ("caf\udce9", r"caf\udce9")]
)
def test_what_a_terminal_would_obey_is_escaped(quoted, shown):
    assert str(UserError("a.json", got=quoted)) == f"a.json: got {shown}" and str(DitqError(quoted)) == shown
    assert str(UserError("ü ❄\nnext")) == "ü ❄\nnext"
