"""Words to ids, and what is said of words that are not known."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from ditq.models import load
from ditq.models.mini import UnknownWords, Words

WORDS = Words(("<pad>", "a", "fox", "in", "the", "snow", "under", "water"), {"underwater": "under water"}, 5)


def test_ids_are_places_in_the_vocabulary_padded_with_zeros():
    ids = WORDS.ids(["A fox, in the SNOW!", "", "fox"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 2, 3, 4, 5], [0, 0, 0, 0, 0], [2, 0, 0, 0, 0]]


def test_an_alias_may_stand_for_two_words():
    assert WORDS.ids(["a fox underwater"]).tolist() == [[1, 2, 6, 7, 0]]


def test_unknown_words_are_named_and_left_out():
    with pytest.warns(
        UnknownWords, match=r"^mini does not know 'purple' in 'a purple fox'; docs/mini.md lists its"
    ):
        assert WORDS.ids(["a purple fox"]).tolist() == [[1, 2, 0, 0, 0]]


def test_a_warning_is_short_and_comes_once_for_each_prompt():
    words = Words(("<pad>", "a", "fox"), {}, 5)
    prompt = "a " + " ".join(f"{'long' * 20}{i}" for i in range(50)) + " fox"
    with pytest.warns(UnknownWords, match="'.*', '.*', '.*' and 47 more in") as caught:
        words.ids([prompt, prompt])
        words.ids([prompt])
    assert len(caught) == 1 and len(str(caught[0].message)) < 250
    with pytest.warns(UnknownWords):
        words.ids(["another zebra"])


def test_the_document_that_a_warning_names_lists_the_words():
    text = (Path(__file__).parents[3] / "docs" / "mini.md").read_text(encoding="utf-8")
    assert all(word in text for word in load("mini").words.known[1:])


def test_the_padding_is_no_word():
    with pytest.warns(UnknownWords, match="'pad'"):
        assert WORDS.ids(["<pad> fox"]).tolist() == [[2, 0, 0, 0, 0]]


def test_words_beyond_the_length_are_cut_and_shown():
    with pytest.warns(UnknownWords, match="reads 5 words; .* leaves out 'fox in'"):
        assert WORDS.ids(["a fox in the snow fox in"]).tolist() == [[1, 2, 3, 4, 5]]


def test_known_prompts_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WORDS.ids(["the fox in a snow"])
