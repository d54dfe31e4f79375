"""A run that is resumed with other settings is told which: the innermost field that differs."""

import pytest

from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_json

RECIPE = {"name": "mine", "methods": {"adaround": {"iterations": 200, "drop": 0.5}}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"methods": {"adaround": {"iterations": 300, "drop": 0.5}}},
            r"iterations: got 300; expected 200 as",
        ),
        (
            {"methods": {"adaround": {"drop": 0.5}}},
            r"recipe\.methods\.adaround\.iterations: got None; expected 200",
        ),
        (
            {"name": "other", "methods": {}},
            r'recipe: got \{"name": "other", "methods": \{\}\}; expected \{"name": "mine", .{,60}\.\.\. as',
        ),
        ({"methods": None}, r"recipe\.methods: got None"),
    ],
)
def test_the_innermost_field_that_differs_is_named(tmp_path, change, says):
    path = tmp_path / "plan.json"
    plan.begin(path, {"seed": 0, "recipe": RECIPE}, False)
    plan.begin(path, {"seed": 0, "recipe": RECIPE}, True)
    with pytest.raises(UserError, match=says):
        plan.begin(path, {"seed": 0, "recipe": {**RECIPE, **change}}, True)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ('{"seed": 0, "reci', "a JSON text|a file that cannot be read"),
        ("[1, 2]", "another kind of file"),
        ('{"kind": "cake", "layers": 3}', "another kind of file"),
        ('{"seed": NaN}', "NaN, which JSON has not"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (None, "a folder"),
    ],
)
def test_a_plan_that_is_none_is_told_with_a_remedy(tmp_path, content, got):
    path = tmp_path / "plan.json"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=f"plan.json: got .*({got}).*; use --force or another place"):
        plan.begin(path, {"seed": 0, "recipe": RECIPE}, True)


def test_a_plan_of_another_kind_is_told(tmp_path):
    path = tmp_path / "plan.json"
    plan.begin(path, {"kind": "ditq.bread", "seed": 0}, False)
    with pytest.raises(UserError, match="a file of the kind 'ditq.bread'; expected .*'ditq.cake'"):
        plan.begin(path, {"kind": "ditq.cake", "seed": 0}, True)


def test_a_run_removes_what_a_killed_one_left(tmp_path):
    left = [
        tmp_path / ".ditq-partial-99999999-plan-x.json",
        tmp_path / "parts" / ".ditq-partial-99999999-a.npz",
    ]
    (tmp_path / "parts").mkdir()
    for path in left:
        path.write_text("half")
    (tmp_path / "parts" / "a.npz").write_text("whole")
    plan.begin(tmp_path / "plan.json", {"seed": 0}, False)
    assert not any(path.exists() for path in left) and (tmp_path / "parts" / "a.npz").exists()


def test_another_number_of_threads_is_a_warning_and_no_other_plan(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    monkeypatch.setattr(plan, "cpu_threads", lambda: 2)
    plan.begin(path, {"seed": 0}, False, threads=True)
    assert read_json(path) == {"seed": 0, "cpu_threads": 2}
    plan.begin(path, {"seed": 0}, True, threads=True)
    monkeypatch.setattr(plan, "cpu_threads", lambda: 1)
    with pytest.warns(UserWarning, match="begun with 2 CPU threads and goes on with 1.*OMP_NUM_THREADS=2"):
        plan.begin(path, {"seed": 0}, True, threads=True)
    with pytest.raises(UserError, match="seed: got 1"):
        plan.begin(path, {"seed": 1}, True, threads=True)


def test_a_plan_without_threads_goes_on(tmp_path):
    plan.begin(tmp_path / "plan.json", {"seed": 0}, False)
    plan.begin(tmp_path / "plan.json", {"seed": 0}, True, threads=True)
