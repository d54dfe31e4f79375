"""`src.adaround_optimize` from its flags; whole runs, killed and resumed, are in tests/test_ptq.py."""

from dataclasses import fields

import pytest

from ditq.cli.adaround_optimize import FLAGS, main
from ditq.weights import AdaRound


def test_every_setting_has_a_flag(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for field in fields(AdaRound):
        assert f"--{FLAGS.get(field.name, field.name).replace('_', '-')} " in told
        assert field.metadata["help"].split()[0] in told


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--cache-dir", "nowhere"], "nowhere"),
        (["--bits-w", "9"], "bits"),
        (["--bits-a", "3"], "--bits-a"),
        (["--iters", "-1"], "iterations"),
        (["--seed", "-1"], "--seed"),
        (["--quant-config", "none.json"], "none.json"),
    ],
)
def test_mistakes_are_told_in_a_line(flags, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert named in told and told.startswith("error:") and told.count("\n") == 1
