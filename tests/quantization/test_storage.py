"""What a checkpoint folder cannot hold is refused before anything is computed."""

import pytest

from ditq.core.errors import UserError
from ditq.core.recipe import plain_recipe, presets, read_recipe, recipe_from
from ditq.core.spec import Spec
from ditq.models import load
from ditq.models.mmdit import MMDiT, MMDiTConfig
from ditq.quantization import check_storable

MODULATION = {"roles": ["modulation"], "method": "rtn", "bits": 8}
FLOAT = {"roles": ["modulation"], "method": "float"}
EDGES = {"roles": ["embedder", "head"], "method": "float"}
REST = {"paths": ["*"], "method": "rtn", "bits": 4}


def recipe(*lines, smooth=None):
    content = {"kind": "ditq.recipe", "version": 1, "layers": list(lines)}
    return recipe_from({**content, "activations": smooth and {"bits": 8, "smooth": smooth}}, "r", "r.json")


@pytest.fixture(scope="module")
def mini():
    return load("mini").skeleton()


@pytest.mark.parametrize("name", presets())
def test_presets_can_be_stored(mini, name):
    check_storable(mini, read_recipe(name))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (plain_recipe("r", "rtn", Spec(7)), "recipe r: .*: packed storage: got 7 bits; expected one of"),
        (recipe(EDGES, FLOAT, REST, smooth="all"), 'got "all", though no modulation can take the factors of .*o_proj'),
        (recipe(EDGES, MODULATION, REST, smooth="foldable"), 'got "foldable", though the recipe quantizes .*adaLN'),
        (
            recipe(
                EDGES, FLOAT, {"paths": ["*.k_proj"], "method": "float"},
                REST, smooth="foldable",
            ),
            "k_proj stays float and reads the input of .*q_proj",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_named(mini, chosen, says):
    with pytest.raises(UserError, match=says):
        check_storable(mini, chosen)


def test_columns_that_mlx_does_not_pack_are_named():
    config = MMDiTConfig(
        num_heads=2, depth_multimodal=1, hidden_size_override=32, max_latent_resolution=8, pooled_text_embed_dim=8,
        token_level_text_embed_dim=8,
    )  # fmt: skip
    everything = plain_recipe("r", "rtn", Spec(4))
    check_storable(MMDiT(config), everything)
    with pytest.raises(
        UserError, match="context_embedder: packed storage: got 8 columns; .*; leave this layer float"
    ):
        check_storable(
            MMDiT(config), recipe({"paths": ["context_embedder"], "method": "rtn", "bits": 4}, EDGES, REST)
        )


def test_the_pipeline_asks_it_first(tmp_path, capsys):
    from ditq.cli.run_pipeline import main

    with pytest.raises(SystemExit) as caught:
        main(["--model", "mini", "--bits-w", "7", "--dry-run", "--out", str(tmp_path / "out")])
    assert caught.value.code == 2 and "packed storage: got 7 bits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
