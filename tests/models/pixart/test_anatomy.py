"""The anatomy of a PixArt transformer against a pass of the network: what each layer is really given, and when."""

import mlx.core as mx
import pytest

from ditq import capture
from ditq.models.cost import blank_conditioning, state_shapes
from ditq.models.pixart import ALPHA, PixArt
from tests.models.pixart.small import CONFIGS


@pytest.fixture(scope="module", params=[*CONFIGS, "full size"])
def network(request):
    return PixArt(CONFIGS.get(request.param, ALPHA))


@pytest.fixture(scope="module")
def received(network):
    """The layers in the order in which a pass calls them, with the arrays that they received."""
    seen = []
    geometry = network.config.geometry(5)
    with capture.traced(network, list(capture.layers(network)), lambda path, x: seen.append((path, x))):
        inputs = network.prepare(blank_conditioning(geometry, 1), mx.array([500.0]))
        network(mx.zeros((1, 8, 8, network.config.latent_channels)), **inputs.at(0))
    return seen


def test_every_layer_but_patches_and_sizes_is_quantizable(network):
    left = set(capture.layers(network)) - set(network.anatomy.modules(network))
    sizes = {path for path in capture.layers(network) if "resolution" in path or "aspect_ratio" in path}
    assert left == {"pos_embed.proj"} | sizes
    assert len(sizes) == (4 if network.config.size_conditioned else 0)
    assert set(network.anatomy.sites) == set(capture.layers(network))


def test_every_layer_of_a_block_belongs_to_it(network):
    anatomy = network.anatomy
    for path, block in zip(anatomy.blocks, network.blocks, strict=True):
        inside = {f"{path}.{name}" for name in capture.layers(block)}
        assert {site.path for site in anatomy.sites.values() if site.block == path} == inside


def test_layers_that_share_an_input_receive_one_and_the_same_array(network, received):
    """The text alone is read by all blocks; each calls it its own."""
    anatomy, groups = network.anatomy, {}
    paths = [path for path, _ in received if anatomy.site(path).quantizable]
    for path, x in received:
        if path in paths:
            groups.setdefault((anatomy.site(path).block, id(x)), set()).add(path)
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, anatomy.shared_inputs(paths)))


def test_keys_and_values_of_cross_attention_share_the_text_and_not_the_queries_tokens(network, received):
    """Both are equally wide: a guess by shapes would go unnoticed."""
    tokens = {path: x.shape[1] for path, x in received if x.ndim == 3}
    text = [path for path, site in network.anatomy.sites.items() if site.stream == "text" and site.block]
    assert all(tokens[path] == 5 for path in text)
    assert sorted(text) == sorted(path for path in tokens if path.endswith((".attn2.to_k", ".attn2.to_v")))
    for block in network.anatomy.blocks:
        assert network.anatomy.sharing(f"{block}.attn2.to_v") == [
            f"{block}.attn2.to_k",
            f"{block}.attn2.to_v",
        ]
        assert tokens[f"{block}.attn2.to_q"] == 16


def test_stages_follow_the_order_of_execution(network, received):
    """Layers of later stages never run before those of earlier ones, but for what reads the text alone."""
    anatomy, last = network.anatomy, {}
    for path, _ in received:
        site = anatomy.site(path)
        if site.stream == "text" and site.phase == "block":
            assert site.stage == 0
            continue
        place = site.phase, site.block, path.split("_embedder")[0] if not site.block else ""
        assert site.stage >= last.get(place, 0)
        last[place] = site.stage


def test_nothing_is_folded_into_the_modulation_that_all_blocks_share(network):
    assert all(site.fold is None for site in network.anatomy.sites.values())


def test_labels_are_short_and_different(network):
    labels = [site.label for site in network.anatomy.sites.values()]
    assert len(set(labels)) == len(labels) and all(len(label) < 60 for label in labels)


def test_the_modulation_is_carried_beside_the_tokens():
    shapes = state_shapes(PixArt(ALPHA), ALPHA.geometry(120), 128, 128)
    assert shapes[0] == {"image": (4096, 1152), "modulation": (7 * 1152,)}
    assert shapes[1:] == [{"image": (4096, 1152)}] * 28
