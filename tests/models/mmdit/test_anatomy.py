"""The anatomy of the SD3 family against the rules by path and suffix that it replaced, on every layer."""

import re

import mlx.core as mx
import mlx.nn as nn
import pytest

from ditq import capture
from ditq.core.errors import DitqError, UserError
from ditq.models import load
from ditq.models.cost import blank_conditioning
from ditq.models.mmdit import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, MMDiT
from tests.models.families import FAMILIES

CONFIGS = {
    **{f"small {name}": config for name, config in FAMILIES.items()},
    "sd3-medium": SD3_MEDIUM,
    "sd3.5-medium": SD35_MEDIUM,
    "sd3.5-large": SD35_LARGE,
    "mini": load("mini").skeleton().config,
}
IN_BLOCK = r"multimodal_transformer_blocks\.(\d+)\.(image|text)_transformer_block\.(.+)"
SHORT = {"image": "img", "text": "txt"}
STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("fc1",), ("fc2",))


@pytest.fixture(scope="module", params=CONFIGS)
def network(request):
    return MMDiT(CONFIGS[request.param])


def old_label(path: str) -> str:
    found = re.fullmatch(IN_BLOCK, path)
    if found is None:
        return path
    block, stream, rest = found.groups()
    name = f"mm_{int(block):02d}_{SHORT[stream]}"
    return name if path.endswith(".mlp.fc2") else f"{name}.{rest}"


def test_every_layer_is_what_its_path_said(network):
    anatomy = network.anatomy
    linears = [path for path, layer in capture.layers(network).items() if layer.weight.ndim == 2]
    assert list(anatomy.modules(network)) == linears
    for path in linears:
        site, inside = anatomy.site(path), re.fullmatch(IN_BLOCK, path) is not None
        name = path.rpartition(".")[2]
        in_block = inside and ".adaLN_modulation." not in path
        assert (site.phase == "block") == in_block
        assert site.label == old_label(path)
        assert site.post_gelu == path.endswith(".mlp.fc2")
        assert (site.fold is not None) == (in_block and name in ("q_proj", "k_proj", "v_proj", "fc1"))
        if in_block:
            assert site.stream == ("image" if ".image_transformer_block." in path else "text")
            assert site.input == re.sub(r"\.[kv]_proj$", ".q_proj", path)
            assert name in STAGES[site.stage]
            assert site.block == ".".join(path.split(".")[:2])


def test_layers_outside_the_blocks_run_in_their_order(network):
    anatomy = network.anatomy
    stages = [sorted(stage) for stage in anatomy.stages(anatomy.paths("prepare"))]
    assert stages[:2] == [[f"{name}.mlp.layers.{i}" for name in ("t_embedder", "y_embedder")] for i in (0, 2)]
    adaptive = sorted(path for path in anatomy.sites if ".adaLN_modulation." in path)
    assert stages[2:] == [adaptive] and len(anatomy.shared_inputs(adaptive)) == 1
    assert anatomy.paths("begin") == ["context_embedder"] and anatomy.paths("finish") == [
        "final_layer.linear"
    ]


def test_layers_that_share_an_input_receive_one_and_the_same_array():
    """The oracle is a pass of the network: what each layer is really given."""
    network = MMDiT(FAMILIES["sd3.5-medium"])
    seen: dict[str, int] = {}
    kept = []

    def observe(path, x):
        kept.append(x)
        seen[path] = id(x)

    geometry = network.config.geometry(8, 5)

    inner = network.anatomy.paths("block")
    with capture.traced(network, inner, observe):
        inputs = network.prepare(blank_conditioning(geometry, 1), mx.array([500.0]))
        network(mx.zeros((1, 8, 8, 16)), **inputs.at(0))
    groups: dict[int, set[str]] = {}
    for path, number in seen.items():
        groups.setdefault(number, set()).add(path)
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, network.anatomy.shared_inputs(inner)))


def test_a_layer_that_the_anatomy_does_not_know_is_named():

    network = MMDiT(FAMILIES["sd3-medium"])
    network.multimodal_transformer_blocks[1].extra = nn.Linear(4, 4)
    with pytest.raises(
        DitqError, match=r"multimodal_transformer_blocks\.1\.extra: not in the anatomy of mmdit"
    ):
        network.anatomy.modules(network)
    with pytest.raises(DitqError, match="not a layer"):
        network.anatomy.site("nowhere")


def test_first_blocks_must_be_there():
    anatomy = MMDiT(FAMILIES["sd3-medium"]).anatomy
    assert anatomy.first_blocks(2) == anatomy.blocks[:2]
    for count in (0, 4):
        with pytest.raises(UserError, match="from 1 to 3"):
            anatomy.first_blocks(count)
