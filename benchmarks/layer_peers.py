"""Layer solvers of other libraries, called as they call them themselves, each on NumPy arrays in and out.

A solver takes W (out, in), X and Xq (rows, in) and returns the quantized weight's values. GPTQ sees Xq alone; so do all
of these libraries when a model is quantized layer after layer.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch

warnings.filterwarnings("ignore")
Solver = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
BATCH = 4096


def per_row() -> dict[str, Solver]:
    """Solvers on 4-bit symmetric grids with a scale per output channel, the quickest first."""
    return {
        "llm-compressor GPTQ": lambda W, X, Xq: llm_compressor(W, Xq, None, True),
        "Brevitas GPTQ": brevitas_gptq,
        "Brevitas Qronos, alpha 1e-6": lambda W, X, Xq: brevitas_qronos(W, X, Xq, 1e-6),
        "Brevitas Qronos, alpha 1e-3": lambda W, X, Xq: brevitas_qronos(W, X, Xq, 1e-3),
    }


def per_group() -> dict[str, Solver]:
    """Solvers on 4-bit asymmetric grids with a scale and a zero point per 64 columns, the quickest first."""
    return {
        "llm-compressor GPTQ": lambda W, X, Xq: llm_compressor(W, Xq, 64, False),
        "mlx-lm GPTQ": mlx_lm,
    }


def batches(X: np.ndarray) -> Iterator[torch.Tensor]:
    """The rows, `BATCH` at a time."""
    for start in range(0, len(X), BATCH):
        yield torch.from_numpy(X[start : start + BATCH])


def brevitas_layer(W: np.ndarray) -> torch.nn.Module:
    """A linear layer on Brevitas's default weight grid at 4 bits, its scales taken once from the original weight.

    Scales that follow the weight would be taken from each single column while it is treated.
    """
    import brevitas.nn as qnn
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant import Int8WeightPerChannelFloat

    grid = Int8WeightPerChannelFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
    layer = qnn.QuantLinear(W.shape[1], W.shape[0], bias=False, weight_quant=grid, weight_bit_width=4)
    layer.weight.data = torch.from_numpy(W.copy())
    layer.train()(torch.zeros(1, W.shape[1]))
    return layer.eval()


@torch.no_grad()
def brevitas_gptq(W: np.ndarray, X: np.ndarray, Xq: np.ndarray) -> np.ndarray:
    """GPTQ with act order, through its context manager."""
    from brevitas.graph.gptq import gptq_mode

    layer = brevitas_layer(W)
    model = torch.nn.Sequential(layer)
    with gptq_mode(model, use_quant_activations=False, act_order=True, create_weight_orig=False) as gptq:
        for batch in batches(Xq):
            gptq.model(batch)
        gptq.update()
    return layer.quant_weight().value.numpy()


@torch.no_grad()
def brevitas_qronos(W: np.ndarray, X: np.ndarray, Xq: np.ndarray, alpha: float) -> np.ndarray:
    """Qronos with act order. Its driver would feed both streams of a single layer alike: here each gets its own."""
    from brevitas.graph.calibrate import quantization_status_manager
    from brevitas.graph.gpxq import LayerHandler
    from brevitas.graph.qronos import Qronos
    from brevitas.utils.torch_utils import StopFwdException

    layer = brevitas_layer(W)
    model, handler = torch.nn.Sequential(layer), LayerHandler()
    qronos = Qronos(layer, "layer", True, 1, create_weight_orig=True, alpha=alpha)

    def update(batch: torch.Tensor) -> None:
        with contextlib.suppress(StopFwdException):
            qronos.update_batch(layer, (batch,), handler)

    for x, xq in zip(batches(X), batches(Xq), strict=True):
        update(xq)
        with quantization_status_manager(
            model,
            disable_act_quant=True,
            disable_weight_quant=True,
            disable_bias_quant=True,
            is_training=False,
        ):
            update(x)
    qronos.single_layer_update()
    return layer.quant_weight().value.numpy()


@torch.no_grad()
def llm_compressor(W: np.ndarray, Xq: np.ndarray, group: int | None, symmetric: bool) -> np.ndarray:
    """GPTQ with its default act order (static groups), damping and block; min-max scales by compressed-tensors."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    from llmcompressor.modifiers.gptq.helpers import accumulate_hessian, make_empty_hessian

    args = QuantizationArgs(
        num_bits=4,
        symmetric=symmetric,
        strategy="group" if group else "channel",
        group_size=group,
        actorder="static",
    )
    layer = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(W.copy())
    hessian, samples = make_empty_hessian(layer), torch.zeros(())
    for batch in batches(Xq):
        hessian, samples = accumulate_hessian(batch, layer, hessian, samples)
    grouped = layer.weight.reshape(len(W), -1, group or W.shape[1])
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    values, _, _ = quantize_weight(
        layer.weight.data[None].clone(), (hessian / samples)[None], scale[None], zero[None], None, args
    )
    return values[0].numpy()


def mlx_lm(W: np.ndarray, X: np.ndarray, Xq: np.ndarray) -> np.ndarray:
    """mlx-lm's GPTQ of a model of one layer; it has no act order, and takes the scales of each group as it comes."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.quant.gptq import gptq_quantize

    model = nn.Sequential(nn.Linear(W.shape[1], W.shape[0], bias=False))
    model.layers[0].weight = mx.array(W)
    model, _ = gptq_quantize(model, mx.array(Xq), 4, 64, 4, 64, batch_size=BATCH)
    layer = model.layers[0]
    return np.array(mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=64, bits=4))
