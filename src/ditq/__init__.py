"""Quantizes diffusion transformers in MLX: smaller models, the same pictures.

    import ditq

    model = ditq.load("mini")
    data = ditq.calibrate(model, images=16)
    small = ditq.quantize(model, "w4a8-gptq", data)
    small.save("mini-w4a8")
    small.generate("a fox in the snow")
    ditq.compare(model, small)

The functions are imported when they are first used. Import ditq before MLX: on Linux it then loads a fast BLAS.
"""

from typing import TYPE_CHECKING, Any

from ditq.core.platform import prepare as _prepare

if TYPE_CHECKING:
    from ditq.notebook import calibrate, compare, load, open_checkpoint, quantize

__version__ = "0.1.0"
__all__ = ["__version__", "calibrate", "compare", "load", "open_checkpoint", "quantize"]

_prepare()


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'ditq' has no attribute {name!r}")
    from ditq import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
