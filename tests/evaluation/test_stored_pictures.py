"""Drawn batches that are lost, cut off or of other pictures are drawn again; other weights are refused."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.files import read_image, read_json, read_npz, write_json, write_npz, write_png
from ditq.evaluation import draw
from ditq.evaluation.drawing import part_of, picture_of
from ditq.evaluation.variants import float_variant
from ditq.sampling.generate import settings_for
from tests.sampling.test_generate import Small


def drawn(folder, model=None):
    model = model or Small()
    settings, variant, counts = settings_for(model, steps=2, guidance=1.0), float_variant(model), []
    found = draw(model, variant, ["one", "two", "three"], [1, 2, 3], settings, folder, 2, counts.append)
    return found, counts


def test_what_is_lost_cut_off_or_another_batch_is_drawn_again(tmp_path):
    found, counts = drawn(tmp_path)
    assert counts == [0, 2, 1]
    path, second = part_of(found.folder, 0), picture_of(found.folder, 1)
    before, data, pixels = read_npz(path), path.read_bytes(), read_image(second)[0]
    changes = (
        lambda: path.unlink(),
        lambda: path.write_bytes(data[:-100]),
        lambda: second.unlink(),
        lambda: [write_png(picture_of(found.folder, i), pixels[:8], {}) for i in range(2)],
        lambda: write_png(second, pixels[:8], {}),
        lambda: second.write_bytes(second.read_bytes()[:60]),
        lambda: write_npz(path, {**before, "latents": np.full_like(before["latents"], np.nan)}),
    )
    for number, change in enumerate(changes):
        change()
        if number != 3:  # readers do not know the size
            with pytest.raises(UserError, match=r"0000[01]\.(npz|png).*run the same command again"):
                list(found.batches())
        assert drawn(tmp_path)[1] == [1, 2]
        assert np.array_equal(read_npz(path)["latents"], before["latents"])
        assert np.array_equal(read_image(second)[0], pixels)
    assert drawn(tmp_path)[1] == [3]


def test_other_weights_are_refused_and_older_folders_go_on(tmp_path):
    found, _ = drawn(tmp_path)
    model = Small()
    network = model.network()
    model.network = lambda: network
    network.x_embedder.proj.weight = network.x_embedder.proj.weight * 1.01
    mx.eval(network.parameters())
    with pytest.raises(
        UserError, match="float: weights: got '[0-9a-f]{16}'; expected '[0-9a-f]{16}' as in the earlier"
    ):
        drawn(tmp_path, model)
    path = found.folder / "plan.json"
    meta = read_json(path)
    del meta["weights"]
    write_json(path, meta)
    assert drawn(tmp_path, model)[1] == [3]
