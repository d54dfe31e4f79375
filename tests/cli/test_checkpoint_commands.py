"""export_checkpoint and load_adaround_model on the embedded model, from flags to files and figures."""

import json

import mlx.core as mx
import numpy as np
import pytest

from ditq import checkpoint as checkpoints
from ditq.checkpoint import QuantizedModel, read_folder
from ditq.checkpoint.npz_run import run as adaround
from ditq.cli.export_checkpoint import main as export
from ditq.cli.load_adaround_model import main as load_and_draw
from ditq.core.files import read_image
from ditq.core.spec import Spec
from ditq.evaluation.metrics import psnr
from ditq.models import load
from ditq.sampling.generate import generate, settings_for
from tests.checkpoint.npz_run.test_run import write_adaround
from tests.checkpoint.small import block_layers, checkpoint, table

PROMPT = "a fox in the snow"
FAST = ["--steps", "3"]


@pytest.fixture(scope="module")
def model():
    return load("mini")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A folder of adaround_optimize: rounding at 4 bits, static grids of steps that suit mini's activations."""
    folder = tmp_path_factory.mktemp("adaround_output")
    parts = checkpoint(model.network(), Spec(4), activations=False, name="mini")
    write_adaround(folder, parts, static=False)
    return folder


@pytest.fixture
def grids(monkeypatch, model):
    """`--quant-config grids.json` gives grids of four timesteps."""
    found = table(model.network())
    monkeypatch.setattr(adaround, "read_quant_config", lambda path: found)
    return ["--quant-config", "grids.json"]


def called(main, capsys, *args) -> str:
    main([str(arg) for arg in args])
    return capsys.readouterr().out


def refused(main, capsys, *args) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_export_writes_what_the_checkpoint_holds(run, grids, tmp_path, capsys):
    out = tmp_path / "mini-w4a8"
    told = called(export, capsys, "--adaround-output", run, *grids, "--out", out, "--dry-run")
    assert told.startswith("would write ") and "57 layers at 4." in told and not out.exists()
    facts = json.loads(called(export, capsys, "--adaround-output", run, *grids, "--out", out, "--json"))
    assert facts["layers"] == 57 and facts["timesteps"] == 4 and 4 < facts["bits_per_weight"] < 4.5
    assert facts["bytes"] / 1e6 == pytest.approx(float(told.split()[2]), rel=0.002)
    assert facts["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert set(facts["files"]) == {"model.safetensors", "activations.npz", "config.json"}
    wanted, found = checkpoints.load(run, tmp_path / "grids.json"), read_folder(out)
    assert all(mx.array_equal(w.codes, found.weights[path].codes) for path, w in wanted.weights.items())
    assert found.activations is not None and found.activations.grids.keys() == wanted.weights.keys()


def test_export_refuses_to_overwrite(run, tmp_path, capsys):
    called(export, capsys, "--adaround-output", run, "--out", tmp_path)
    told = refused(export, capsys, "--adaround-output", run, "--out", tmp_path)
    assert "got a checkpoint from an earlier run; use --force or another --out" in told
    line = called(
        export, capsys, "--adaround-output", run, "--out", tmp_path, "--scales", "float16", "--force"
    )
    assert line.startswith("mini: 57 layers at 4.") and line.rstrip().endswith(str(tmp_path))
    assert (
        mx.load(str(tmp_path / "model.safetensors"))[
            "multimodal_transformer_blocks.0.image_transformer_block.mlp.fc1.scales"
        ].dtype
        == mx.float16
    )


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pictures_are_those_of_the_quantized_model(run, grids, model, version, tmp_path, capsys):
    image = tmp_path / "fox.png"
    line = called(
        load_and_draw, capsys, "--adaround-output", run, *grids, "--prompt", PROMPT, "--output-image", image,
        "--version", version, "--seed", 3, *FAST,
    )  # fmt: skip
    assert line.startswith(f"1 drawn, {version.upper()}: ") and str(image) in line
    parts = checkpoints.load(run, tmp_path / "grids.json")
    quantized = QuantizedModel(model, parts, version == "v2")
    (wanted,) = generate(quantized, [PROMPT], [3], settings_for(model, steps=3))
    picture, text = read_image(image)
    assert np.array_equal(picture, wanted)
    assert (
        text["prompt"] == PROMPT and text["seed"] == "3" and text["quantization"].startswith(version.upper())
    )


def test_v2_is_the_default_where_there_are_grids(run, grids, tmp_path, capsys):
    common = ["--adaround-output", run, "--prompt", PROMPT, "--dry-run", "--output-dir", tmp_path]
    assert "(V2: weights and activations)" in called(load_and_draw, capsys, *common, *grids)
    assert "(V1: weights only)" in called(load_and_draw, capsys, *common)
    assert "(float, V1: weights only, V2: weights and activations)" in called(
        load_and_draw, capsys, *common, *grids, "--compare"
    )
    told = refused(load_and_draw, capsys, *common, "--version", "v2")
    assert "no activation grids" in told and "--quant-config" in told


def test_compare_and_statistics_are_of_the_pictures_that_are_written(run, grids, model, tmp_path, capsys):
    out, prompts = tmp_path / "out", tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\na large owl at night\n")
    common = ["--adaround-output", run, *grids, "--prompts-file", prompts, "--output-dir", out, *FAST]
    facts = json.loads(called(load_and_draw, capsys, *common, "--compare", "--diff-stats", "--json"))
    names = ["0000_a-fox-in-the-snow.png", "0001_a-large-owl-at-night.png", "comparison.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert facts["comparison"] == str(out / "comparison.png") and facts["version"] == "v2"
    floats = list(generate(model, [PROMPT, "a large owl at night"], [0, 1], settings_for(model, steps=3), 2))
    for i, reference in enumerate(floats):
        wanted = psnr(reference, read_image(out / names[i])[0])
        assert facts["scores"]["v2"]["psnr_db"][i] == pytest.approx(wanted)
        assert facts["scores"]["v1"]["psnr_db"][i] > 15
        assert 0 < facts["scores"]["v1"]["latent_relative_error"][i] < 0.5
    layers = block_layers(model.network())
    assert facts["weight_errors"].keys() == layers.keys()
    parts = checkpoints.load(run)
    for path, entry in list(facts["weight_errors"].items())[:5]:
        there, here = (
            np.array(layers[path].weight, np.float64),
            np.array(parts.weights[path].values(), np.float64),
        )
        assert entry["relative_error"] == pytest.approx(
            np.linalg.norm(here - there) / np.linalg.norm(there), rel=1e-4
        )
        assert entry["max_abs"] == pytest.approx(np.abs(here - there).max(), rel=1e-4)
    assert "use --force" in refused(load_and_draw, capsys, *common)
    printed = called(load_and_draw, capsys, *common, "--diff-stats", "--force")
    assert "V2: weights and activations: PSNR" in printed and "weights of 57 layers: off by" in printed


def test_a_folder_needs_no_float_model_for_its_pictures(run, grids, tmp_path, capsys, monkeypatch):
    called(export, capsys, "--adaround-output", run, *grids, "--out", tmp_path / "folder")
    images = [tmp_path / "one.png", tmp_path / "two.png"]
    called(
        load_and_draw,
        capsys,
        "--adaround-output",
        run,
        *grids,
        "--prompt",
        PROMPT,
        "--output-image",
        images[0],
        *FAST,
    )
    from ditq.models.mini import Mini

    monkeypatch.setattr(Mini, "network", lambda self: pytest.fail("the float network was loaded"))
    called(
        load_and_draw, capsys, "--checkpoint", tmp_path / "folder", "--prompt", PROMPT, "--output-image", images[1],
        *FAST,
    )  # fmt: skip
    first, second = (read_image(image)[0].astype(int) for image in images)
    assert np.abs(first - second).max() <= 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--output-image", "x.png"], "prompts: got none; give --prompt"),
        (["--prompt", " ", "--output-image", "x.png"], "prompts: got an empty prompt"),
        (["--prompt", "a"], "output: expected --output-image FILE for one prompt, or --output-dir DIR"),
        (["--prompt", "a", "--prompt", "b", "--output-image", "x.png"], "--output-image: got 2 prompts"),
        (["--prompt", "a", "--output-dir", "x", "--batch-size", "0"], "--batch-size: got 0"),
    ],
)
def test_impossible_flags_are_explained(run, args, message, capsys):
    assert message in refused(load_and_draw, capsys, "--adaround-output", run, *args)


def test_a_folder_of_something_else_is_explained(tmp_path, capsys):
    told = refused(load_and_draw, capsys, "--adaround-output", tmp_path, "--prompt", "a", "--output-dir", "x")
    assert "config.json: got no such file" in told


@pytest.mark.parametrize("form", ["run", "folder"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "config.json: model: got ''; expected a text that names a model"),
        ("nosuch", "model: got nosuch; expected mini or sd3-medium"),
    ],
)
def test_a_checkpoint_of_no_known_model_is_explained(model, form, name, message, tmp_path, capsys):
    parts = checkpoint(model.network(), Spec(4), activations=False, name="mini")
    if form == "run":
        write_adaround(tmp_path, parts, static=False)
    else:
        checkpoints.write_folder(tmp_path, model.network(), parts)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": name}))
    for main in (load_and_draw, export):
        flags = ["--prompt", PROMPT] if main is load_and_draw else []
        told = refused(main, capsys, "--adaround-output", tmp_path, *flags, "--output-dir", tmp_path / "x")
        assert message in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
