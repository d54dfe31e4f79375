"""Labels of layers, and layers by label."""

import pytest

from ditq.core.errors import UserError
from ditq.diagnostics import Named, chosen, observed_paths, representative, streams
from ditq.diagnostics.layer_names import names_by, names_in
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import SD3_MEDIUM
from tests.diagnostics.runs import path_of


def test_sd3_medium_has_47_postgelu_layers_with_distinct_labels():
    network = MMDiT(SD3_MEDIUM)
    names = names_by(network.anatomy, observed_paths(network, "postgelu"))
    labels = {name.label for name in names.values()}
    assert len(labels) == 47 and {"mm_00_img", "mm_12_img", "mm_23_img", "mm_22_txt"} <= labels
    assert [names[path].label for path in representative(names)] == [
        *("mm_00_img", "mm_12_img", "mm_23_img", "mm_00_txt", "mm_11_txt", "mm_22_txt")
    ]
    every = names_by(network.anatomy, observed_paths(network, "all"))
    assert len(every) == len({name.label for name in every.values()}) == 340
    assert streams(every) == ["image", "text", None]


def test_files_give_names_back_and_older_ones_give_paths():
    names = {path_of(3): Named("mm_03_img", "image"), "t_embedder": Named("t_embedder")}
    entries = {path: name._asdict() for path, name in names.items()}
    assert names_in(entries, names) == names
    assert names_in(None, ["a", "b"]) == {"a": Named("a", None), "b": Named("b", None)}
    with pytest.raises(KeyError, match="b"):
        names_in({"a": {"label": "a", "stream": None}}, ["a", "b"])
    with pytest.raises(TypeError, match="label and stream of a"):
        names_in({"a": {"label": 3, "stream": None}}, ["a"])


@pytest.mark.parametrize("word", ["../ESC", "/etc/x", "a/b", "a\0b", "x" * 300])
def test_what_cannot_stand_in_a_files_name_is_no_label(word):
    for entries in (None, {word: {"label": word, "stream": None}}, {word: {"label": "a", "stream": word}}):
        with pytest.raises(TypeError, match="label or stream of .* is no file's name"):
            names_in(entries, [word])


def test_layers_are_chosen_by_path_or_label():
    labels = {path_of(0): "mm_00_img", path_of(0, "text"): "mm_00_txt", path_of(1): "mm_01_img"}
    names = {path: Named(label) for path, label in labels.items()}
    assert chosen(names, ["mm_01_img", path_of(0)]) == [path_of(1), path_of(0)]
    assert chosen(names, ["all"]) == list(names)
    with pytest.raises(
        UserError, match="--layers: got mm_09_img; expected a path or label of 3: mm_00_img, mm_00_txt"
    ):
        chosen(names, ["mm_09_img"])
