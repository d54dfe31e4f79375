"""Small block problems: random blocks of the SD3 family, and a single layer dressed as a block."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq import capture
from ditq.core.spec import Spec
from ditq.models.anatomy import Anatomy, Site
from ditq.models.state import BlockState, Flow, run_block
from ditq.weights import BlockProblem, block_specs
from tests.models.families import FAMILIES, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded

QUERIES, OUTPUT, FC1, FC2 = "attn.q_proj", "attn.o_proj", "mlp.fc1", "mlp.fc2"
"""One layer of each stage of an MMDiT's block, within a stream."""


def random_problem(
    number=0, rows=12, tokens=9, spec=None, family="sd3-medium", seed=0, **more
) -> BlockProblem:
    """Block `number` of a random model; its quantized inputs are the float ones with a little noise."""
    config = FAMILIES[family]
    network = loaded(config, to_mlx(stability_weights(config)))
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))

    hidden, block = config.hidden_size, network.blocks[number]
    timesteps = np.linspace(1000, 100, rows).astype(np.float32)
    name = block.modulation_name
    modulation = mx.concatenate(
        [network.given(mx.array([t]), normal(1, 48))[name] for t in timesteps.tolist()]
    )
    inputs = {
        "image": normal(rows, tokens, hidden),
        "text": normal(rows, 4, hidden),
        name: modulation,
    }
    noisy = {**inputs, "image": inputs["image"] + normal(rows, tokens, hidden, scale=0.01)}
    path, flow = network.anatomy.blocks[number], network.flow
    outputs = run_block(block, inputs)
    return BlockProblem(
        block=block,
        path=path,
        anatomy=network.anatomy,
        inputs=inputs,
        quantized_inputs=noisy,
        targets={name: outputs[name] for name in flow.read_later(number)},
        carried=flow.inputs(number),
        timesteps=timesteps,
        specs=block_specs(block, path, network.anatomy, spec or Spec(4)),
        **more,
    )


class OneLayer(nn.Module):
    """A layer that the image passes through, and nothing else."""

    reads = writes = ("image",)

    def __init__(self, layer: capture.Layer):
        super().__init__()
        self.layer = layer

    def __call__(self, image):
        return self.layer(image)


def one_layer_problem(layer: capture.Layer, image: mx.array, spec: Spec, **more) -> BlockProblem:
    """The problem of one layer that receives this image (rows, ..., channels); activations stay as they are."""
    block, rows = OneLayer(layer), len(image)
    state: BlockState = {"image": image}
    given = {
        "quantized_inputs": state,
        "specs": {"block.layer": spec},
        "activation_bits": 16,
        **more,
    }
    return BlockProblem(
        block=block,
        path="block",
        anatomy=Anatomy("toy", ("block",), [Site("block.layer", "projection", block="block")]),
        inputs=state,
        targets=run_block(block, state),
        carried=Flow.of([block], ["image"], ["image"]).inputs(0),
        timesteps=np.arange(rows, 0, -1, np.float32),
        **given,
    )


def linear(weight: np.ndarray | mx.array, bias: mx.array | None = None) -> nn.Linear:
    """A linear layer with this weight (out, in)."""
    weight = mx.array(weight)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


def layer_problem(weight: np.ndarray, x: np.ndarray, spec: Spec) -> BlockProblem:
    """The problem of one linear layer with these inputs (rows, in), each row a token."""
    return one_layer_problem(linear(weight), mx.array(x[:, None]), spec)


def numbers(activations) -> dict[str, tuple[float, float]]:
    """Step and centre of static input grids."""
    return {
        path: (grid.rows.scale.item(), 0.0 if grid.rows.shift is None else grid.rows.shift.item())
        for path, grid in activations.items()
    }
