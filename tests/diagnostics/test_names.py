"""Labels of layers, and layers by label."""

import pytest

from ditq.core.errors import UserError
from ditq.diagnostics import chosen, label, observed_paths, representative, stream
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import SD3_MEDIUM
from tests.diagnostics.runs import path_of


def test_sd3_medium_has_47_postgelu_layers_with_distinct_labels():
    mmdit = MMDiT(SD3_MEDIUM)
    paths = observed_paths(mmdit, "postgelu")
    labels = [label(path) for path in paths]
    assert len(set(labels)) == 47 and {"mm_00_img", "mm_12_img", "mm_23_img", "mm_22_txt"} <= set(labels)
    assert [label(path) for path in representative(paths)] == [
        *("mm_00_img", "mm_12_img", "mm_23_img", "mm_00_txt", "mm_11_txt", "mm_22_txt")
    ]
    every = observed_paths(mmdit, "all")
    assert len(every) == len({label(path) for path in every}) == 340


@pytest.mark.parametrize(
    ("path", "name", "of"),
    [
        (path_of(3, "text"), "mm_03_txt", "text"),
        (path_of(3).replace("mlp.fc2", "attn.q_proj"), "mm_03_img.attn.q_proj", "image"),
        ("unified_transformer_blocks.7.transformer_block.mlp.fc2", "uni_07", None),
        ("context_embedder", "context_embedder", None),
    ],
)
def test_label_and_stream(path, name, of):
    assert label(path) == name and stream(path) == of


def test_layers_are_chosen_by_path_or_label():
    paths = [path_of(0), path_of(0, "text"), path_of(1)]
    assert chosen(paths, ["mm_01_img", path_of(0)]) == [paths[2], paths[0]]
    assert chosen(paths, ["all"]) == paths
    with pytest.raises(
        UserError, match="--layers: got mm_09_img; expected a path or label of 3: mm_00_img, mm_00_txt"
    ):
        chosen(paths, ["mm_09_img"])
