"""The anatomy of a UNet against a pass of the network: what each layer is really given, and when."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from ditq import capture
from ditq.models.cost import blank_conditioning, state_shapes
from ditq.models.unet import SD1, UNet
from tests.models.unet.small import CONFIGS


@pytest.fixture(scope="module", params=[*CONFIGS, "full size"])
def network(request):
    return UNet(CONFIGS.get(request.param, SD1))


@pytest.fixture(scope="module")
def received(network):
    """The layers in the order in which a pass calls them, with the arrays that they received."""
    seen = []
    paths = list(network.anatomy.modules(network))
    geometry = network.config.geometry(8, 5)
    with capture.traced(network, paths, lambda path, x: seen.append((path, x))):
        inputs = network.prepare(blank_conditioning(geometry, 1), mx.array([500.0]))
        network(mx.zeros((1, 16, 16, network.config.in_channels)), **inputs.at(0))
    return seen


def test_every_layer_but_the_first_is_quantizable(network):
    assert set(capture.layers(network)) - set(network.anatomy.modules(network)) == {"conv_in"}


def test_every_layer_of_a_block_belongs_to_it(network):
    anatomy = network.anatomy
    for path, block in zip(anatomy.blocks, network.blocks, strict=True):
        inside = {f"{path}.{name}" for name in capture.layers(block)}
        assert {site.path for site in anatomy.sites.values() if site.block == path} == inside


def test_layers_that_share_an_input_receive_one_and_the_same_array(network, received):
    """The text alone is read by several blocks; each calls it its own."""
    anatomy, groups = network.anatomy, {}
    for path, x in received:
        site = anatomy.site(path)
        owner = site.block if site.phase == "block" else ""
        groups.setdefault((owner, id(x)), set()).add(path)
    wanted = anatomy.shared_inputs(path for path, _ in received)
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, wanted))


def test_stages_follow_the_order_of_execution(network, received):
    """Layers of later stages never run before those of earlier ones, but for what reads the text alone."""
    anatomy = network.anatomy
    last: dict = {}
    for path, _ in received:
        site = anatomy.site(path)
        if site.stream == "text" or path.endswith("conv_shortcut"):
            assert site.stage == 0  # it waits for nothing in its block
            continue
        place = site.phase, site.block if site.phase == "block" else ""
        assert site.stage >= last.get(place, 0)
        last[place] = site.stage


def test_the_text_reaches_keys_and_values_of_cross_attention_alone(network, received):
    widths = {path: x.shape for path, x in received}
    text = [path for path, site in network.anatomy.sites.items() if site.stream == "text"]
    assert all(widths[path] == (1, 5, network.config.text_embed_dim) for path in text)
    assert all(path.endswith((".attn2.to_k", ".attn2.to_v")) for path in text)
    assert len(text) == 2 * sum("attentions" in path for path in network.anatomy.blocks)


def test_joined_layers_know_where_the_skip_connection_begins(network):
    """The oracle: a pass in which features are ones and skip connections twos."""
    anatomy, found = network.anatomy, {}
    for block in network.blocks:
        if len(block.reads) == 3:
            layers = capture.layers(block)
            into, out = layers["conv1"].weight.shape[-1], layers["conv1"].weight.shape[0]
            path = next(p for p, b in zip(anatomy.blocks, network.blocks, strict=True) if b is block)
            first = anatomy.site(f"{path}.conv1").joins
            image, skip = mx.ones((1, 2, 2, first)), mx.full((1, 2, 2, into - first), 2.0)
            seen = []
            with capture.traced(block, ["conv_shortcut"], lambda _, x, seen=seen: seen.append(x)):
                block(image, skip, mx.zeros((1, out)))
            row = seen[0][0, 0, 0].tolist()
            assert row == [1.0] * first + [2.0] * (into - first)
            found[f"{path}.conv1"] = found[f"{path}.conv_shortcut"] = first
    assert found == {path: site.joins for path, site in anatomy.sites.items() if site.joins is not None}
    assert len(found) == 2 * (network.config.layers_per_block + 1) * network.config.levels


def test_labels_are_short_and_different(network):
    labels = [site.label for site in network.anatomy.sites.values()]
    assert len(set(labels)) == len(labels) and all(len(label) < 40 for label in labels)


def test_skip_connections_are_carried_until_they_are_read():
    flow, shapes = UNet(SD1).flow, state_shapes(UNet(SD1), SD1.geometry(8, 77), 64, 64)
    middle = (
        SD1.layers_per_block * (1 + 1) * 3 + 3 + 2
    )  # ResNets and transformers, downsamplers, the last two ResNets
    carried = flow.carried(middle)
    assert list(carried) == [f"skip.{number}" for number in range(12)]
    assert [shapes[at][name] for name, at in carried.items()] == [
        *[(64, 64, 320)] * 3, (32, 32, 320), *[(32, 32, 640)] * 2, (16, 16, 640), *[(16, 16, 1280)] * 2,
        *[(8, 8, 1280)] * 3,
    ]  # fmt: skip
    assert list(flow.carried(flow.blocks)) == ["image"]


def test_convolutions_are_as_many_as_published():
    layers = capture.layers(UNet(SD1))
    kernels = [layer.weight for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    threes = sum(kernel.size for kernel in kernels if kernel.shape[1] == 3)
    ones = sum(kernel.size for kernel in kernels if kernel.shape[1] == 1)
    assert round(threes / 1e6) == 541 and round(ones / 1e6) == 48
