"""Groups of weights: whole input channels, and none that holds both halves of a joined input."""

import pytest

from ditq import capture
from ditq.core.errors import UserError
from ditq.core.recipe import recipe_from
from ditq.core.spec import GROUP_SIZES, Spec
from ditq.models.anatomy import Site
from ditq.models.unet import SD1, UNet
from ditq.quantization import assigned

JOINED = Site("up.conv1", "convolution", joins=320)


def recipe(**line):
    content = {
        "kind": "ditq.recipe",
        "version": 1,
        "layers": [{"paths": ["*"], "method": "rtn", "bits": 4, **line}],
    }
    return recipe_from(content, "mine", "mine.json")


def straddles(channels: int, first: int, size: int) -> bool:
    """Whether some group, counted one by one, holds channels of both halves."""
    halves = [{index < first for index in range(start, start + size)} for start in range(0, channels, size)]
    return any(len(half) == 2 for half in halves)


@pytest.mark.parametrize("size", GROUP_SIZES)
@pytest.mark.parametrize(("first", "channels"), [(320, 640), (640, 960), (1280, 2560), (64, 384), (128, 256)])
def test_a_group_is_refused_where_one_would_hold_channels_of_both(first, channels, size):
    site = Site("up.conv1", "convolution", joins=first)
    if channels % size:
        return
    if straddles(channels, first, size):
        with pytest.raises(
            UserError, match=f"up.conv1: {first} of {channels} in_features.*group size {size}"
        ):
            site.check_groups(Spec(4, group_size=size), channels)
    else:
        site.check_groups(Spec(4, group_size=size), channels)


def test_the_message_says_which_sizes_fit():
    with pytest.raises(UserError) as caught:
        JOINED.check_groups(Spec(4, group_size=128), 640, "recipe mine")
    assert str(caught.value) == (
        "recipe mine: up.conv1: 320 of 640 in_features, in front of a skip connection, are not divisible: got "
        "group size 128; expected no group with channels of both, whose ranges differ; use 32 or 64"
    )
    with pytest.raises(UserError, match="use 32$"):
        Site("a", "convolution", joins=96).check_groups(Spec(4, group_size=64), 256)
    with pytest.raises(UserError, match="quantize it per channel"):
        Site("a", "convolution", joins=80).check_groups(Spec(4, group_size=64), 256)
    JOINED.check_groups(Spec(4), 640)  # one scale a row


@pytest.mark.parametrize("size", [32, 64])
def test_stable_diffusion_has_groups_of_64(size):
    network = UNet(SD1)
    rules = assigned(network, recipe(group_size=size)).rules
    assert list(rules) == list(network.anatomy.modules(network))
    joined = [site for site in network.anatomy.sites.values() if site.joins is not None]
    channels = {path: capture.channels(layer) for path, layer in capture.layers(network).items()}
    assert len(joined) == 24 and not any(straddles(channels[s.path], s.joins, size) for s in joined)


def test_a_recipe_that_would_join_halves_is_refused_before_anything_is_computed():
    with pytest.raises(UserError, match="recipe mine: up_blocks.3.resnets.1.conv1: 320 of 640 in_features"):
        lines = [{"paths": ["up_blocks.3.resnets.1.conv1"], "method": "rtn", "bits": 4, "group_size": 128}]
        content = {
            "kind": "ditq.recipe",
            "version": 1,
            "layers": [*lines, {"paths": ["*"], "method": "float"}],
        }
        assigned(UNet(SD1), recipe_from(content, "mine", "mine.json"))
