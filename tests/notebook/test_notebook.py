"""What `import ditq` offers: the whole way in a few lines, lazily, with something to look at."""

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import ditq
from ditq.core.errors import UserError
from ditq.core.files import read_image
from ditq.core.recipe import plain_recipe
from ditq.core.spec import Spec
from ditq.notebook import Pictures
from tests.house.checker import ROOT


@pytest.fixture(scope="module")
def model():
    return ditq.load("mini")


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    return ditq.calibrate(model, images=3, steps=6, folder=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def small(model, data, tmp_path_factory):
    return ditq.quantize(model, "w4a8-gptq", data, work=tmp_path_factory.mktemp("work"))


def test_nothing_heavy_is_imported_before_it_is_used():
    code = "import ditq, sys; print(*(m for m in ('matplotlib', 'ditq.notebook', 'PIL', 'tqdm') if m in sys.modules))"
    run = [sys.executable, "-c", f"import src; {code}"]
    assert subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip() == ""
    assert {"load", "calibrate", "quantize", "open_checkpoint", "compare"} <= set(dir(ditq))
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        ditq.quantise  # noqa: B018


def test_data_is_recorded_shown_and_kept(model, data):
    assert len(data) == 3 and "3 trajectories of 6 steps of mini" in repr(data)
    html = data._repr_html_()
    assert html.count("<img") == 3 and "data:image/png;base64," in html
    again = ditq.calibrate(model, images=3, steps=6, folder=data.folder)
    assert again.images.digest == data.images.digest
    with pytest.raises(UserError, match="num_images"):
        ditq.calibrate(model, images=4, steps=6, folder=data.folder)


def test_data_without_a_folder_goes_with_its_object(model):
    data = ditq.calibrate(model, images=1, steps=2)
    folder = data.folder
    assert (folder / "manifest.json").exists()
    del data
    assert not folder.exists()


def test_a_quantized_model_says_how_small_it_is(small):
    assert small.label == "W4/6/8A8" and len(small.checkpoint.weights) == 74
    assert "recipe: w4a8-gptq" in repr(small) and "35% of 16 bits" in repr(small)
    assert "<table>" in small._repr_html_()


def test_a_recipe_that_no_folder_can_hold_is_refused_at_once(model, data, tmp_path):
    with pytest.raises(UserError, match="7"):
        ditq.quantize(model, plain_recipe("seven", "rtn", Spec(7)), data, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_it_goes_on_where_it_stopped(model, data, tmp_path):
    first = ditq.quantize(model, "w4-group64", data, work=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "quantized" / "weights").iterdir()}
    again = ditq.quantize(model, "w4-group64", data, work=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 7
    for path, weight in first.checkpoint.weights.items():
        assert mx.array_equal(weight.codes, again.checkpoint.weights[path].codes)


def test_a_saved_model_comes_back_and_draws_the_same_picture(small, tmp_path):
    folder = small.save(tmp_path / "mini-w4a8")
    with pytest.raises(UserError, match="force=True"):
        small.save(folder)
    small.save(folder, force=True)
    again = ditq.open_checkpoint(folder)
    assert again.label == "W4/6/8A8" and again.name == "mini"
    pictures = [np.asarray(one.generate("a fox in the snow", steps=4)) for one in (small, again)]
    assert np.array_equal(*pictures) and pictures[0].shape == (128, 128, 3)
    alone = ditq.open_checkpoint(folder, activations=False)
    assert alone.label == "W4/6/8A16"


def test_one_prompt_is_a_picture_and_several_are_pictures(model, tmp_path):
    one = model.generate("a fox in the snow", seed=1, steps=3)
    assert isinstance(one, Image.Image) and one.size == (128, 128)
    both = model.generate(["a car", "a fox in the snow"], steps=3, batch_size=1)
    assert isinstance(both, Pictures) and len(both) == 2 and isinstance(both[0], Image.Image)
    assert np.array_equal(np.asarray(both[1]), np.asarray(one))
    assert len(both[:1]) == 1 and len(list(both)) == 2
    assert 'alt="a car"' in both._repr_html_() and "2 pictures of 128x128" in repr(both)
    paths = both.save(tmp_path)
    assert read_image(paths[1])[1]["prompt"] == "a fox in the snow"
    for prompts in ([], "", ["a car", " "]):
        with pytest.raises(UserError, match="prompts"):
            model.generate(prompts)


def test_a_comparison_is_a_table_and_pictures(model, small):
    found = ditq.compare(model, small, small, count=2, steps=4)
    lines = repr(found).splitlines()
    assert len(lines) == 5 and lines[1].startswith("float") and "identical" in lines[1]
    assert lines[2].startswith("w4a8-gptq, W4/6/8A8 ") and lines[3].startswith("w4a8-gptq, W4/6/8A8 (2)")
    html = found._repr_html_()
    assert html.count("<img") == 6 and html.count("<tr>") == 5


def test_help_reads_well():
    for name in ("load", "calibrate", "quantize", "open_checkpoint", "compare"):
        assert "\n" in getattr(ditq, name).__doc__
    assert "ditq.quantize(model" in ditq.__doc__


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model, data: ditq.load("mimi"), "^model: got mimi"),
        (lambda model, data: ditq.calibrate(model, images=0), "^images: got 0"),
        (lambda model, data: ditq.quantize(model, "nope", data), "^recipe: got nope"),
        (lambda model, data: model.generate("a fox", steps=0), "^steps: got 0"),
        (lambda model, data: ditq.open_checkpoint("nowhere"), "^nowhere"),
    ],
)
def test_errors_name_arguments(model, data, call, says):
    with pytest.raises(UserError, match=says):
        call(model, data)
