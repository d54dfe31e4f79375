"""`src.adaround_optimize` from its flags; whole runs, killed and resumed, are in tests/test_ptq.py."""

import json
import math
from dataclasses import fields

import pytest

from ditq.calibration import read_block_cache
from ditq.cli import cache_adaround_data
from ditq.cli.adaround_optimize import FLAGS, main
from ditq.cli.forecasts import FIGURE
from ditq.models import load
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
        (["--iters", "-1"], "--iters: got -1; expected at least 1"),
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


def test_dry_run_tells_blocks_time_memory_and_the_disk_that_codes_take(calibration, capsys, tmp_path):
    cache = ["--calib-dir", calibration, "--output-dir", tmp_path / "cache", "--num-images", 1, "--stride", 9]
    cache_adaround_data.main([str(arg) for arg in cache])
    argv = ["--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "out"), "--dry-run"]
    capsys.readouterr()
    main(argv)
    told = capsys.readouterr().out
    assert told.startswith("blocks to quantize: 5, 80 iterations each; about ") and "memory: " in told
    main([*argv, "--block-numbers", "0", "2", "--iters", "7", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["blocks"] == 2 and facts["iterations"] == 7
    network = load("mini").skeleton()
    paths = [path for i in (0, 2) for path in network.anatomy.paths("block", network.anatomy.blocks[i])]
    layers = network.anatomy.modules(network)
    codes = sum(layers[path].weight.size + 4 * layers[path].weight.shape[0] for path in paths)
    cache = read_block_cache(tmp_path / "cache")
    boundaries = [sum(math.prod(shape) for shape in new.values()) for new in cache.meta["states"]]
    streams = 2 * 4 * len(cache) * max(boundaries)  # one read and one written, float32
    assert codes < facts["disk_bytes"] - 2 * FIGURE - streams < 1.05 * codes
    assert facts["memory_bytes"] > 0 and facts["seconds"] >= 0 and not (tmp_path / "out").exists()
