"""How small the presets make the models: bytes of all files, computed from shapes as forecasts compute them."""

import numpy as np
import pytest

from ditq import capture
from ditq.checkpoint.mlx_folder.size import weights_bytes
from ditq.core.recipe import presets, read_recipe
from ditq.models import load
from ditq.quantization import assigned
from ditq.quantization.forecast import folder_of
from ditq.quantization.storage import check_storable


def share(model: str, preset: str) -> float:
    """Bytes of the checkpoint's folder by those of the float16 transformer's file."""
    loaded, recipe = load(model), read_recipe(preset)
    network = loaded.skeleton()
    specs = {path: rule.spec for path, rule in assigned(network, recipe).rules.items()}
    return folder_of(loaded, network, specs, 14 if recipe.activations else 0) / weights_bytes(network, {})


@pytest.mark.parametrize("model", ["mini", "sd3-medium"])
def test_the_smallest_preset_takes_less_than_three_tenths(model):
    assert 0.25 < share(model, "w4a8-small") <= 0.30
    assert share(model, "w4a8-small") == min(share(model, preset) for preset in presets())


@pytest.mark.parametrize("preset", ["w4-group64", "w4a8-rtn", "w4a8-gptq", "w4a8-small"])
def test_stable_diffusion_with_its_convolutions_takes_less_than_a_third(preset):
    """Every layer but the first is quantized; linear layers alone would leave two thirds of the weights as they are."""
    network, recipe = load("sd1.5").skeleton(), read_recipe(preset)
    check_storable(network, recipe)
    assert list(assigned(network, recipe).rules) == list(network.anatomy.modules(network))
    assert 0.25 < share("sd1.5", preset) <= 0.32
    assert np.isclose(weights_bytes(network, {}), 1.72e9, rtol=0.01)


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("model", ["pixart-alpha", "pixart-sigma"])
def test_every_preset_fits_pixart(model, preset):
    network, recipe = load(model).skeleton(), read_recipe(preset)
    check_storable(network, recipe)
    assert list(assigned(network, recipe).rules) == list(network.anatomy.modules(network))
    assert 0.25 < share(model, preset) <= (0.55 if preset == "w8a8" else 0.30)
    assert np.isclose(weights_bytes(network, {}), 1.22e9, rtol=0.01)


def test_a_share_is_that_of_the_weights_bits():
    """By hand, for SD3 Medium: packed codes with a float16 scale and bias in each group, the rest as float16."""
    network, recipe = load("sd3-medium").skeleton(), read_recipe("w4a8-small")
    layers, rules = network.anatomy.modules(network), assigned(network, recipe).rules
    codes = {path: capture.matrix(layers[path]).shape for path in rules}
    groups = {path: rules[path].spec.group_size or 128 for path in rules}
    packed = sum(rows * columns * (4 + 32 / groups[path]) / 8 for path, (rows, columns) in codes.items())
    whole = weights_bytes(network, {})
    rest = whole - 2 * sum(rows * columns for rows, columns in codes.values())
    assert share("sd3-medium", "w4a8-small") == pytest.approx((packed + rest) / whole, rel=2e-3)
    assert np.isclose(whole, 4.17e9, rtol=0.01)
