"""The classifier against the one that was trained, and prompts against what they were written for."""

import sys

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.models import load
from ditq.models.mini import UNASKED
from tests.house.checker import ROOT

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def judge():
    return load("mini").judge


@pytest.fixture(scope="module")
def training():
    """The training script's modules."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from mini import gate, nets, pictures, words

        yield {"gate": gate, "nets": nets, "pictures": pictures, "words": words}
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def pictures(count=6, side=128):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_it_computes_what_the_trained_one_does(judge, training):
    trained = training["pictures"].judge_network().eval()
    import mlx.utils

    weights = {name: np.array(value) for name, value in mlx.utils.tree_flatten(judge.network.parameters())}
    trained.load_state_dict(
        {
            name: torch.from_numpy(value.transpose(0, 3, 1, 2).copy() if value.ndim == 4 else value)
            for name, value in weights.items()
        }
    )
    shown = pictures()
    seen = judge.see(shown)
    with torch.no_grad():
        x = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 127.5 - 1
        last = trained.features(x)[-1]
        wanted = torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1).numpy()
        logits = trained(x)
    np.testing.assert_allclose(seen.features, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen.objects, logits[0].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(seen.labels, np.stack([one.argmax(1).numpy() for one in logits], 1))
    import mlx.core as mx

    ours = judge.network(mx.array(shown).astype(mx.float32) / 127.5 - 1)[1]
    for one, other in zip(ours, logits, strict=True):
        np.testing.assert_allclose(np.array(one), other.numpy(), rtol=1e-5, atol=1e-5)


def test_prompts_are_read_as_the_training_script_wrote_them(judge, training):
    items = training["gate"].held_out_pictures(240)
    prompts = [training["words"].caption(item) for item in items]
    np.testing.assert_array_equal(judge.asked(prompts), training["gate"].data.labels(items))


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("fox snow", ("fox", "snow", None, "middle")),
        ("a big blue automobile in the centre", ("car", "white", "blue", "middle")),
        ("a car on a blue background", ("car", "blue", "red", "middle")),
        ("A FISH, on the right, underwater", ("fish", "water", "blue", "right")),
        ("a red fox", ("fox", "white", None, "middle")),
    ],
)
def test_looser_prompts_are_read(judge, prompt, wanted):
    names = [
        judge.labels[key][number] if number != UNASKED else None
        for key, number in zip(
            ("objects", "backgrounds", "colours", "positions"), judge.asked([prompt])[0], strict=True
        )
    ]
    assert tuple(names) == wanted


def test_what_cannot_be_judged_is_refused(judge):
    with pytest.raises(UserError, match="'a castle'.*no object of mini's; expected one of fox, penguin"):
        judge.asked(["a castle"])
    with pytest.raises(UserError, match="pictures of 64 x 64; expected 128 x 128 pixels"):
        judge.see(pictures(1, 64))
