"""What training leaves is what ditq loads: the round trip of untrained networks through the exported file."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from torch import nn

from ditq.core.files import read_safetensors
from ditq.models.mini import Mini
from mini import gate, nets, pictures, prompts, words
from mini.export import export, parity
from mini.trained import load_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder with random networks in it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    text = nets.TextEncoder(len(words.vocabulary()), words.MAX_WORDS)
    both = nn.ModuleDict({"transformer": nets.transformer(), "text": text})
    for parameter in both.parameters():
        nn.init.normal_(parameter, std=0.03)
    torch.save({"ema": both.state_dict()}, folder / "checkpoint.pt")
    torch.save(nets.Decoder().state_dict(), folder / "decoder.pt")
    torch.save(pictures.judge_network().state_dict(), folder / "classifier.pt")
    return folder


def test_exported_model_draws_what_the_trained_one_does(folder):
    target = folder / "mini.safetensors"
    scores = export(folder, target) | parity(folder, target, count=2, steps=3)
    assert scores["megabytes"] <= 16
    assert scores["velocity_error"] < 0.01 and scores["picture_psnr"] > 45
    model = Mini(target)
    assert list(model.words.known) == words.vocabulary()
    assert model.geometry.text_tokens == model.words.length == words.MAX_WORDS


def test_exported_classifier_judges_as_the_trained_one(folder):
    export(folder, folder / "mini.safetensors")
    weights, _ = read_safetensors(folder / "mini.safetensors")
    judge = pictures.judge_network()
    parts = {
        name.removeprefix("classifier."): torch.from_numpy(np.array(value.astype(mx.float32)))
        for name, value in weights.items()
        if name.startswith("classifier.")
    }
    judge.load_state_dict({k: v.permute(0, 3, 1, 2) if v.ndim == 4 else v for k, v in parts.items()})
    trained = load_network(pictures.judge_network(), folder / "classifier.pt")
    x = torch.randn(4, 3, 128, 128)
    with torch.no_grad():
        for got, wanted in zip(judge(x), trained(x), strict=True):
            assert torch.allclose(got, wanted, atol=1e-2)


def test_accuracy_of_colour_counts_coloured_objects_only():
    wanted = np.array([[0, 0, -1, 1], [1, 0, 2, 1], [1, 0, 0, 1]])
    guesses = np.array([[0, 1, 3, 1], [1, 0, 2, 0], [1, 0, 1, 1]])
    assert pictures.accuracies(guesses, wanted) == pytest.approx(
        {"object": 1.0, "background": 2 / 3, "colour": 0.5, "position": 2 / 3}
    )


def test_evaluation_prompts_are_combinations_that_neither_training_nor_calibration_has():
    evaluated, calibrated = gate.held_out_pictures(prompts.EVALUATED), prompts.calibration_pictures()
    assert all(item.held_out for item in evaluated) and not any(item.held_out for item in calibrated)
    pairs = [{(item.object, item.background) for item in items} for items in (evaluated, calibrated)]
    assert len(evaluated) == 64 and not pairs[0] & pairs[1]


def test_shipped_prompt_lists_are_the_scripts_own(tmp_path):
    from ditq.calibration import default_prompts
    from ditq.evaluation import evaluation_prompts

    calibration = [words.caption(item) for item in prompts.calibration_pictures()]
    assert default_prompts("mini") == calibration
    assert evaluation_prompts("mini") == [words.caption(one) for one in gate.held_out_pictures(64)]
    assert len(set(calibration)) == 64
