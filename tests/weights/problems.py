"""Small block problems: random blocks of the SD3 family, and a single layer dressed as a block."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.calibration.block_cache import Streams, block_modulation, run_block
from ditq.core.spec import Spec
from ditq.models.mmdit.model import MultiModalTransformerBlock
from ditq.weights import BlockProblem, block_specs
from tests.models.families import FAMILIES, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded


def random_problem(
    number=0, rows=12, tokens=9, spec=None, family="sd3-medium", seed=0, **more
) -> BlockProblem:
    """Block `number` of a random model; its quantized inputs are the float ones with a little noise."""
    config = FAMILIES[family]
    mmdit = loaded(config, to_mlx(stability_weights(config)))
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))

    hidden = config.hidden_size
    timesteps = np.linspace(1000, 100, rows).astype(np.float32)
    modulation = mx.stack([mmdit.modulation(normal(1, 48), mx.array([t]))[0, 0] for t in timesteps.tolist()])
    inputs = Streams(normal(rows, tokens, hidden), normal(rows, 4, hidden))
    noisy = Streams(inputs.image + normal(rows, tokens, hidden, scale=0.01), inputs.text)
    block = mmdit.multimodal_transformer_blocks[number]
    path = f"multimodal_transformer_blocks.{number}"
    mine = block_modulation(mmdit, number, modulation)
    targets = run_block(block, inputs, mine)
    specs = block_specs(block, path, spec or Spec(4))
    return BlockProblem(block, path, mine, inputs, noisy, targets, timesteps, specs, **more)


class OneLayer(MultiModalTransformerBlock):
    """A linear layer that the image stream passes through, and nothing else."""

    num_modulation_params = 1

    def __init__(self, weight: mx.array):
        nn.Module.__init__(self)
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.layer.weight = weight
        self.text_transformer_block = nn.Module()
        self.text_transformer_block.ends_at_attention = True

    def take_chunks(self, chunks):
        return list(chunks), []

    def __call__(self, image, text, image_mod, text_mod):
        image = self.layer(image)
        return image, mx.zeros((len(text), 1, image.shape[-1]))


def layer_problem(weight: np.ndarray, x: np.ndarray, spec: Spec) -> BlockProblem:
    """The problem of one layer with these inputs (rows, in), each row a token; activations stay as they are."""
    rows = len(x)
    image, out = mx.array(x[:, None]), mx.array(weight).T
    inputs = Streams(image, mx.zeros((rows, 1, image.shape[-1])))
    targets = Streams(image @ out, mx.zeros((rows, 1, out.shape[1])))
    block = OneLayer(mx.array(weight))
    zeros = mx.zeros((rows, 1))
    specs = {"block.layer": spec}
    return BlockProblem(
        block, "block", zeros, inputs, inputs, targets, np.arange(rows, 0, -1, np.float32), specs, 16
    )
