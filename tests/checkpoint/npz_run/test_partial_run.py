"""What a run of adaround_optimize has finished so far, read block by block."""

import mlx.core as mx
import pytest

from ditq.checkpoint.npz_run.block_file import static_grid, write_block
from ditq.checkpoint.npz_run.partial_run import read_finished
from ditq.checkpoint.npz_run.run import KIND, VERSION
from ditq.core.errors import UserError
from ditq.core.files import write_json
from tests.checkpoint.small import INT4, block_layers, model, quantize


def begin(folder, **fields):
    plan = {"kind": KIND, "version": VERSION, "model": "small", "recipe": {"bits_a": 8}}
    write_json(folder / "plan.json", {**plan, "quantized_blocks": [0, 2], **fields})


def finish(folder, number, grids=True, scale=0.5):
    prefix = f"multimodal_transformer_blocks.{number}."
    layers = {path: layer for path, layer in block_layers(model()).items() if path.startswith(prefix)}
    weights = {path: quantize(layer.weight, INT4) for path, layer in layers.items()}
    write_block(
        folder, number, weights, dict.fromkeys(weights, static_grid(scale, 0.0, 8)) if grids else {}, {}
    )
    return weights


def test_finished_blocks_alone_are_read(tmp_path):
    begin(tmp_path)
    with pytest.raises(UserError, match="got no finished block"):
        read_finished(tmp_path)
    weights = finish(tmp_path, 2)
    checkpoint, digests = read_finished(tmp_path)
    assert checkpoint.model == "small" and checkpoint.weights.keys() == weights.keys() and set(digests) == {2}
    for path, weight in weights.items():
        assert mx.array_equal(checkpoint.weights[path].codes, weight.codes)
    assert checkpoint.activations is not None and checkpoint.activations.grids.keys() == weights.keys()
    finish(tmp_path, 0)
    both, more = read_finished(tmp_path)
    assert len(both.weights) > len(weights) and more[2] == digests[2] and set(more) == {0, 2}


def test_digest_follows_weights_and_grids(tmp_path):
    begin(tmp_path)
    found = []
    for grids, scale in ((True, 0.5), (True, 0.25), (False, 0.5), (True, 0.5)):
        finish(tmp_path, 0, grids, scale)
        checkpoint, digests = read_finished(tmp_path)
        assert (checkpoint.activations is not None) == grids
        found.append(digests[0])
    assert len(set(found)) == 3 and found[0] == found[3]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="plan.json: got no such file"):
        read_finished(tmp_path)
    begin(tmp_path, version=9)
    with pytest.raises(UserError, match="version 9; expected ditq.adaround version 1"):
        read_finished(tmp_path)
