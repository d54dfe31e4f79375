"""What the notebook's functions refuse: in one line that names the argument, before anything is computed."""

import mlx.core as mx
import numpy as np
import pytest

import ditq
from ditq.calibration import ImageRecipe, collect_images, read_images
from ditq.checkpoint import QuantizedCheckpoint
from ditq.cli.flags import DTYPES
from ditq.core.errors import UserError
from ditq.core.recipe import read_recipe
from ditq.notebook import CalibrationData, QuantizedModel, calibration, comparison, quantized
from ditq.notebook.arguments import checked_arguments
from ditq.notebook.checks import a_size
from ditq.sampling.generate import settings_for


@pytest.fixture(scope="module")
def model():
    return ditq.load("mini")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """One picture of two steps."""
    place = tmp_path_factory.mktemp("data")
    settings = settings_for(model.inner, 32, 32, 2)
    collect_images(model.inner, ["a fox"], ImageRecipe(1), settings, place)
    return place


class Reached(Exception):
    """All arguments were accepted."""


@pytest.fixture
def stopped(monkeypatch):
    """The functions raise Reached with what they were about to compute from."""

    def reach(*args, **kwargs):
        raise Reached(*args)

    monkeypatch.setattr(calibration, "collect_images", reach)
    monkeypatch.setattr(comparison, "evaluate", reach)
    monkeypatch.setattr(quantized, "calibrated", reach)
    monkeypatch.setattr("ditq.notebook.model.generate", reach)


FOX = {"prompts": "a fox"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("batch_size", 0, "got 0; expected at least 1"),
        ("batch_size", 1.5, "got 1.5; expected a whole number from 1 to 100,000"),
        ("batch_size", "4", "got '4'; expected a whole number"),
        ("batch_size", None, "got None"),
        ("batch_size", True, "got True"),
        ("seed", -1, "got -1; expected at least 0"),
        ("seed", "a", "got 'a'"),
        ("seed", 2**70, "expected at most"),
        ("size", (64,), r"got \[64\]; expected whole pixels"),
        ("size", (64, 64, 64), "expected whole pixels"),
        ("size", 64.0, "got 64.0"),
        ("size", "64", "got '64'"),
        ("size", (64, "a"), "expected whole pixels"),
        ("steps", 2.5, "got 2.5"),
        ("steps", float("nan"), "got nan"),
        ("steps", 0, "got 0; expected at least 1"),
        ("guidance", "x", "got 'x'; expected a number from 0 to 1,000"),
        ("guidance", 1e30, r"got 1e\+30"),
        ("guidance", float("nan"), "got nan"),
        ("negative", None, "got None; expected a text"),
        ("negative", 3, "got 3; expected a text"),
        ("prompts", None, "got None; expected a text or a list of texts"),
        ("prompts", 3, "got 3"),
        ("prompts", b"fox", "got b'fox'"),
    ],
)
def test_a_value_that_no_picture_can_be_drawn_with_is_refused(model, stopped, name, value, says):
    default = name == "prompts" and value is None
    calls = [model.generate]
    calls += [] if name == "negative" or default else [lambda **given: ditq.calibrate(model, **given)]
    calls += [] if name == "negative" or default else [lambda **given: ditq.compare(model, **given)]
    if name == "batch_size" and value is None:
        calls.pop(1)  # by model
    for call in calls:
        with pytest.raises(UserError, match=f"^{name}: .*{says}|^{name}: {says}") as error:
            call(**{**FOX, name: value})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([3], r"^prompts\[0\]: got 3; expected a text"),
        ([["a"]], r"^prompts\[0\]: got \[\"a\"\]"),
        ([], "^prompts: got none; expected words"),
        ("", "^prompts: got an empty one"),
        (["a", " "], "^prompts: got an empty one"),
        ("a\ud800", "not UTF-8"),
    ],
)
def test_prompts_without_words_are_refused(model, stopped, prompts, says):
    for call in (model.generate, lambda given: ditq.calibrate(model, prompts=given)):
        with pytest.raises(UserError, match=says):
            call(prompts)
    with pytest.raises(UserError, match=says):
        ditq.compare(model, prompts=prompts)


def test_a_text_is_one_prompt(model, stopped):
    with pytest.raises(Reached) as reached:
        ditq.calibrate(model, prompts="a fox")
    assert reached.value.args[1] == ["a fox"]
    with pytest.raises(Reached) as reached:
        ditq.compare(model, prompts="a fox")
    assert reached.value.args[2] == ["a fox"]


def test_numbers_of_numpy_are_numbers(model, stopped):
    with pytest.raises(Reached) as reached:
        ditq.calibrate(
            model, np.int64(3), size=np.int64(64), steps=np.int32(2), guidance=np.float32(2), seed=np.uint8(1)
        )
    _, _, recipe, settings = reached.value.args[:4]
    assert recipe.num_images == 3 and recipe.seed == 1 and type(recipe.num_images) is int
    assert (settings.height, settings.steps, settings.guidance) == (64, 2, 2.0)
    assert type(settings.height) is type(settings.steps) is int and type(settings.guidance) is float
    assert a_size("size", np.array([64, 32])) == a_size("size", [64, 32]) == (64, 32)


@pytest.mark.parametrize("given", [1.5, "2", True, 0])
def test_counts_are_whole_numbers(model, folder, stopped, given):
    with pytest.raises(UserError, match="^images: got"):
        ditq.calibrate(model, images=given)
    with pytest.raises(UserError, match="^count: got"):
        ditq.compare(model, count=given)
    with pytest.raises(UserError, match="^count: got"):
        CalibrationData(read_images(folder)).pictures(given)


def test_a_folder_of_other_files_is_left_alone(model, folder, stopped, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for foreign in (tmp_path, ".", folder):
        if foreign is not folder:
            with pytest.raises(
                UserError, match="^folder: got .*holds config.json; expected a new or empty folder"
            ):
                ditq.calibrate(model, folder=foreign)
        with pytest.raises(UserError, match=r"^work: got .* holds (?:config.json|conditioning.npz)"):
            ditq.compare(model, work=foreign)
        with pytest.raises(UserError, match="^work: got .*one that ditq.quantize began; name another folder"):
            ditq.quantize(model, "w4a8-rtn", folder, work=foreign)
    for wrong in ("", 3, b"data", tmp_path / "config.json"):
        with pytest.raises(UserError, match="^folder: got"):
            ditq.calibrate(model, folder=wrong)
        with pytest.raises(UserError, match="^work: got"):
            ditq.compare(model, work=wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_an_empty_or_begun_folder_is_taken(model, folder, stopped, tmp_path):
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "cache").mkdir()
    calls = [lambda: ditq.calibrate(model, folder=folder), lambda: ditq.calibrate(model, folder=tmp_path)]
    calls += [lambda: ditq.compare(model, work=tmp_path), lambda: ditq.compare(model, work=tmp_path / "new")]
    calls += [lambda: ditq.quantize(model, "w4a8-rtn", folder, work=tmp_path)]
    for call in calls:
        with pytest.raises(Reached):
            call()
    (tmp_path / "cache" / "metadata.json").touch()
    with pytest.raises(Reached):
        ditq.quantize(model, "w4a8-rtn", folder, work=tmp_path)
    with pytest.raises(UserError, match="^work: got .* holds cache;"):
        ditq.compare(model, work=tmp_path)


def test_calibration_data_may_be_given_as_its_folder(model, folder, stopped):
    for given in (folder, str(folder), CalibrationData(read_images(folder))):
        with pytest.raises(Reached) as reached:
            ditq.quantize(model, read_recipe("w4a8-rtn"), given)
        assert reached.value.args[1].digest == read_images(folder).digest
    for wrong in (None, 3, [folder], model):
        with pytest.raises(
            UserError, match="^data: got .*; expected calibration data, as ditq.calibrate returns"
        ):
            ditq.quantize(model, "w4a8-rtn", wrong)
    with pytest.raises(UserError, match="^recipe: got 3"):
        ditq.quantize(model, 3, folder)


def test_a_model_is_a_float_model(model, folder, stopped):
    small = QuantizedModel(model.inner, QuantizedCheckpoint("mini", {}))
    for call in (ditq.calibrate, ditq.compare, lambda one: ditq.quantize(one, "w4a8-rtn", folder)):
        for wrong in (None, "mini", 3, CalibrationData(read_images(folder))):
            with pytest.raises(
                UserError, match="^model: got .*; expected a model; give what ditq.load returns"
            ):
                call(wrong)
        with pytest.raises(
            UserError, match="^model: got a quantized model; expected a float model; give .*float_model"
        ):
            call(small)


def test_what_is_compared_are_quantized_models(model, stopped):
    for wrong in ("x", None, 3):
        with pytest.raises(
            UserError, match="^quantized: got .*; open a checkpoint with ditq.open_checkpoint"
        ):
            ditq.compare(model, wrong)
    with pytest.raises(UserError, match=r"^quantized: .*one by one: ditq.compare\(model, \*models\)"):
        ditq.compare(model, [model])
    with pytest.raises(UserError, match="^quantized: got a float model"):
        ditq.compare(model, model)


def test_a_dtype_may_be_given_by_name():
    for name, dtype in DTYPES.items():
        assert ditq.load("mini", dtype=name).inner.network().dtype == dtype
        assert ditq.load("mini", dtype=dtype).inner.network().dtype == dtype
    for wrong in ("int8", np.float32, mx.int8, 3):
        with pytest.raises(UserError, match="^dtype: got .*; expected mx.float32 or mx.float16"):
            ditq.load("mini", dtype=wrong)


@pytest.mark.parametrize("wrong", [3, b"/tmp", [], ""])
def test_paths_are_paths(wrong):
    with pytest.raises(UserError, match="^path: got"):
        ditq.load("mini", path=wrong)
    with pytest.raises(UserError, match="^folder: got"):
        ditq.open_checkpoint(wrong)
    with pytest.raises(UserError, match="^name: got|^model: got"):
        ditq.load(wrong)


def test_an_argument_has_its_functions_own_check_or_the_usual_one():
    @checked_arguments(seed=lambda argument, value: f"{argument} {value}")
    def function(seed, steps: int = 3, other=None):
        return seed, steps, other

    assert function(1, other="x") == ("seed 1", 3, "x")
    with pytest.raises(UserError, match="^steps: got 0"):
        function(1, 0)
    with pytest.raises(TypeError, match="seed"):
        function()
