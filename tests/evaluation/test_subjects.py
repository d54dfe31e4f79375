"""Checkpoint folders as what is evaluated, and prompts that calibration must not have seen."""

from dataclasses import replace

import pytest

from ditq.checkpoint import FolderModel, write_folder
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.evaluation import fingerprint_of, rounded
from ditq.evaluation.subjects import check_disjoint, read_subjects, shipped_files
from ditq.models import load


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two checkpoints of mini; the first tells its calibration prompts."""
    model, found = load("mini"), []
    for name, meta in (("told", {"calibration_prompts": ["A fox  in the snow"]}), ("silent", {})):
        found.append(tmp_path_factory.mktemp("checkpoints") / name)
        made = rounded(model, Spec(8, group_size=64), search=False)
        write_folder(found[-1], model.network(), replace(made, meta=meta))
    return found


def test_a_folder_is_read_when_it_is_opened(folders):
    model = load("mini")
    (told,) = read_subjects(folders[:1], model)
    (variant,) = told.variants
    assert variant.name == "W8A16" and told.whole and told.calibration_prompts == ["A fox  in the snow"]
    assert set(shipped_files(folders[0])) == set(told.files) == {"config.json", "model.safetensors"}
    assert isinstance(told.opened(model, variant), FolderModel)
    with variant.opened(model) as opened:
        assert fingerprint_of(opened.checkpoint) in variant.fingerprint
    assert [one.variants[0].name for one in read_subjects(folders, model)] == ["told: W8A16", "silent: W8A16"]
    with pytest.raises(UserError, match="a folder twice"):
        read_subjects([folders[0], folders[0] / ".." / "told"], model)


def test_prompts_of_the_calibration_are_refused(folders):
    told, silent = read_subjects(folders, load("mini"))
    check_disjoint(["an owl", "a fox in snow"], [told, silent])
    check_disjoint(["a fox in the snow"], [silent])
    with pytest.raises(UserError, match=r"'a FOX in  the snow'.*told was calibrated on.*take them out"):
        check_disjoint(["an owl", "a FOX in  the snow"], [silent, told])
