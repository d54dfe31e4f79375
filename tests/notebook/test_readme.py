"""The README's lines for notebooks, run as they stand, with fewer steps and pictures."""

import re

import pytest

import ditq
from ditq.checkpoint import read_folder
from ditq.models.mini import Mini
from ditq.quantization import amounts
from tests.house.checker import ROOT


@pytest.mark.slow
def test_the_lines_of_the_readme_work(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert block.strip().endswith("ditq.compare(model, small)")
    few = amounts.replace(amounts.AMOUNTS["mini"], steps=4)
    monkeypatch.setitem(amounts.AMOUNTS, "mini", few)
    monkeypatch.setattr(Mini, "defaults", amounts.replace(Mini.defaults, steps=3))
    monkeypatch.chdir(tmp_path)
    *lines, last = block.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    table = repr(eval(last, names)).splitlines()
    assert [line.split("  ")[0] for line in table] == [
        "variant", "float", "w4a8-gptq, W4/6/8A8", "float, other seeds",
    ]  # fmt: skip
    assert len(read_folder(tmp_path / "mini-gptq").weights) == 74
    assert ditq.open_checkpoint("mini-gptq").label == "W4/6/8A8"
