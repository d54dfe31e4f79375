"""A random model of the SD3 family and checkpoints of it, rounded to nearest, with made-up activation grids."""

from functools import cache

import mlx.core as mx
import numpy as np

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint import QuantizedCheckpoint
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import round_to_nearest
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.models.mmdit import MMDiT
from tests.models.families import FAMILIES, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded

CONFIG = FAMILIES["sd3.5-medium"]
TIMESTEPS = np.array([1000, 700, 300, 20], np.float32)
INT4 = Spec(4)
IMAGE = "multimodal_transformer_blocks.0.image_transformer_block"


def model(config=CONFIG) -> MMDiT:
    """A network whose layers can be replaced; it shares its weights with every other one of this shape."""
    return capture.sharing(_model(config))


@cache
def _model(config) -> MMDiT:
    return loaded(config, to_mlx(stability_weights(config)))


def block_layers(network: MMDiT) -> dict[str, capture.Layer]:
    """The layers that are quantized by default."""
    modules = network.anatomy.modules(network)
    return {path: modules[path] for path in network.anatomy.paths("block")}


def factors(path: str, columns: int) -> mx.array | None:
    """Smoothing where adaLN can take it: one vector for q, k and v of an attention, one for fc1."""
    owner, _, name = path.rpartition(".")
    if name not in ("q_proj", "k_proj", "v_proj", "fc1"):
        return None
    rng = np.random.default_rng(sum(map(ord, owner + ("fc1" if name == "fc1" else "qkv"))))
    return mx.array(rng.uniform(0.5, 2.0, columns).astype(np.float32))


def quantize(weight: mx.array, spec: Spec, smooth: mx.array | None = None) -> QuantizedWeight:
    return QuantizedWeight(
        *round_to_nearest(weight if smooth is None else weight * smooth, spec), spec, smooth
    )


def table(network: MMDiT, bits: int = 8, smooth: bool = False, shift: bool = True) -> ActivationTable:
    """Grids of another width at each timestep; shifted per channel for fc2, per tensor for o_proj, else not."""
    spec, grids, steps = Spec(bits), {}, len(TIMESTEPS)
    for i, (path, layer) in enumerate(block_layers(network).items()):
        rng, columns = np.random.default_rng(i), layer.weight.shape[1]
        channels = {"fc2": columns, "o_proj": 1}.get(path.rpartition(".")[2]) if shift else None
        rows = GridRows(
            scale=mx.array((rng.uniform(4, 8, steps) / 2**bits).astype(np.float32)),
            qmin=mx.full((steps,), float(spec.qmin)),
            qmax=mx.full((steps,), float(spec.qmax)),
            shift=None
            if channels is None
            else mx.array(rng.normal(0, 0.3, (steps, channels)).astype(np.float32)),
        )
        grids[path] = TimestepGrid(TIMESTEPS, rows, factors(path, columns) if smooth else None)
    return ActivationTable(TIMESTEPS, grids)


def checkpoint(
    network: MMDiT,
    spec: Spec = INT4,
    smooth: bool = False,
    activations: bool = True,
    name: str = "small",
) -> QuantizedCheckpoint:
    weights = {
        path: quantize(layer.weight, spec, factors(path, layer.weight.shape[1]) if smooth else None)
        for path, layer in block_layers(network).items()
    }
    return QuantizedCheckpoint(name, weights, table(network, smooth=smooth) if activations else None)


def same(
    one: QuantizedCheckpoint, other: QuantizedCheckpoint, parts=("codes", "scale", "zero", "smooth")
) -> None:
    assert (one.model, one.meta, set(one.weights)) == (other.model, other.meta, set(other.weights))
    for path, weight in one.weights.items():
        assert weight.spec == other.weights[path].spec
        for part in parts:
            same_array(getattr(weight, part), getattr(other.weights[path], part), f"{path} {part}")
    assert (one.activations is None) == (other.activations is None)
    if one.activations is not None and other.activations is not None:
        assert np.array_equal(one.activations.timesteps, other.activations.timesteps)
        assert one.activations.grids.keys() == other.activations.grids.keys()
        for path, grid in one.activations.grids.items():
            found = other.activations.grids[path]
            assert np.array_equal(grid.timesteps, found.timesteps), path
            same_array(grid.smooth, found.smooth, f"{path} smooth")
            for part in ("scale", "qmin", "qmax", "shift"):
                same_array(getattr(grid.rows, part), getattr(found.rows, part), f"{path} {part}")


def same_array(one, other, what) -> None:
    assert (one is None) == (other is None), what
    assert one is None or mx.array_equal(one, other), what
