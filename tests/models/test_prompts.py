"""What is no text is refused before anything is loaded."""

import os

import pytest

from ditq.core.errors import UserError
from ditq.models import MODELS, load
from ditq.models.prompts import LONGEST, checked_prompts


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (
            os.fsdecode(b"a caf\xe9"),
            r"prompt 'a caf\\udce9': got a byte that is not UTF-8 at character 6; expected text",
        ),
        ("a \0 fox", r"prompt 'a \\x00 fox': got a NUL character; expected text"),
        ("a \ud83d fox", r"prompt 'a \\ud83d fox': got a byte that is not UTF-8 at character 3"),
        ("fox " * 5000, r"prompt 'fox fox .*\.\.\.': got 20,000 characters; expected 10,000 at most"),
    ],
    ids=["byte", "NUL", "half", "long"],
)
def test_what_is_no_text_is_refused(model, prompt, told):
    with pytest.raises(UserError, match=told) as caught:
        load(model).encode(["a fox", prompt])
    assert len(str(caught.value)) < 300
    str(caught.value).encode()  # the message itself can be printed


def test_any_text_passes():
    prompts = ["", "été 日本 🦊", "x" * LONGEST, "two\nlines\tand a tab"]
    assert checked_prompts(prompts) == prompts
