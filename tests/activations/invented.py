"""Statistics of invented inputs, written as a folder: the steps grow louder, one layer has an isolated spike."""

from pathlib import Path

import numpy as np

from ditq.core.files import write_json
from ditq.diagnostics import InputStatistics, LayerStatistics, read_layer_statistics
from ditq.diagnostics.layer_files import KIND, MANIFEST, VERSION, write_step

BLOCK = "multimodal_transformer_blocks.0.image_transformer_block"
QKV = [f"{BLOCK}.attn.{name}_proj" for name in "qkv"]
FC1, FC2 = f"{BLOCK}.mlp.fc1", f"{BLOCK}.mlp.fc2"
SIGMAS = {0: 1.0, 2: 0.6, 4: 0.25}
ROLES = {**dict.fromkeys(QKV, "attention_in"), FC1: "mlp_in", FC2: "mlp_out"}
CHANNELS = {QKV[0]: 24, FC1: 128, FC2: 48}
SPIKE = 5


def values(source: str, step: int, tokens: int = 80) -> np.ndarray:
    """(guidance, images, tokens, channels) float32."""
    rng = np.random.default_rng([step, list(CHANNELS).index(source)])
    x = rng.standard_normal((2, 2, tokens, CHANNELS[source])) * (1 + step / 2)
    if source == FC2:
        x = np.maximum(x, -0.17)
    if source == FC1:
        x[..., SPIKE] *= 40
    return x.astype(np.float32)


def statistics_of(
    x: np.ndarray, shifted: bool, rows: int, norms: np.ndarray | None = None
) -> InputStatistics:
    norms = np.ones(x.shape[-1]) if norms is None else norms
    found = InputStatistics.empty(norms, shifted, rows)
    found.observe(x, np.random.default_rng(9).random(x.shape[:3]))
    found.finish()
    return found


def folder(path: Path) -> LayerStatistics:
    """Five layers, three inputs, three steps."""
    sources = {**dict.fromkeys(QKV, QKV[0]), FC1: FC1, FC2: FC2}
    manifest = {
        "kind": KIND,
        "version": VERSION,
        "model": "invented",
        "images": ["a:0", "a:1"],
        "sample_values": 4096,
        "step_keys": list(SIGMAS),
        "sigma_map": {str(step): sigma for step, sigma in SIGMAS.items()},
        "layers": {
            layer: {
                "input": source,
                "channels": CHANNELS[source],
                "label": layer.replace(BLOCK, "mm_00_img").removesuffix(".mlp.fc2"),
                "stream": "image",
                "role": ROLES[layer],
                "post_gelu": layer == FC2,
                "foldable": layer != FC2,
            }
            for layer, source in sources.items()
        },
    }
    write_json(path / MANIFEST, manifest)
    for step in SIGMAS:
        found = {source: statistics_of(values(source, step), source == FC2, 200) for source in CHANNELS}
        write_step(path, step, found, manifest)
    return read_layer_statistics(path / MANIFEST)


def weights_of(paths: list[str]) -> dict:
    """A random weight for each layer."""
    import mlx.core as mx

    rng = np.random.default_rng(3)
    shapes = {path: (16, CHANNELS.get(path, CHANNELS[QKV[0]])) for path in paths}
    return {path: mx.array(rng.standard_normal(shape).astype(np.float32)) for path, shape in shapes.items()}
