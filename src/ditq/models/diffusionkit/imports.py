"""Imports DiffusionKit's MLX part alone, on current MLX.

DiffusionKit asks for torch and argmaxtools (which asks for coremltools and wandb), but its MLX modules use only a
logger, two base classes and a division of them. Those few names stand in `sys.modules` while it is imported, and only
then: what was there before is put back, and nothing that is imported later meets a stand-in.
"""

import importlib
import importlib.util
import logging
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ditq.core.errors import UserError

_PACKAGE = "diffusionkit.mlx"
_CHECKOUT = Path("DiffusionKit", "python", "src")
_REPOSITORY = Path(__file__).resolve().parents[4]
"""The folder of a bare checkout or an editable install; elsewhere it holds no DiffusionKit, and nothing is found."""
_LOCK = threading.RLock()


def diffusionkit() -> Any:
    """The module `diffusionkit.mlx`, imported on the first call, without torch, coremltools, wandb or transformers.

    A checkout in `DiffusionKit/`, of the working directory or else of the repository, wins over the installed
    package. Raises UserError when there is neither, and when it cannot be imported.
    """
    with _LOCK:
        if _PACKAGE in sys.modules:
            return sys.modules[_PACKAGE]
        with _search_path(local_checkout()):
            if importlib.util.find_spec("diffusionkit") is None:
                raise UserError(
                    "diffusionkit",
                    got=f"neither the package nor a checkout in {_CHECKOUT}",
                    remedy="install it with `pip install --no-deps diffusionkit==0.5.2`; `--model mini` needs nothing",
                )
            try:
                with _stand_ins():
                    return importlib.import_module(_PACKAGE)
            except (ImportError, SyntaxError, AttributeError) as error:
                where = local_checkout() or "the installed package"
                raise UserError(
                    f"diffusionkit ({where})",
                    got=f"an import that failed: {error}",
                    expected="DiffusionKit 0.5.2 with what its MLX part needs",
                    remedy="pip install --no-deps diffusionkit==0.5.2, and `pip install` the module named here",
                ) from error


def local_checkout() -> Path | None:
    """The source folder of a local DiffusionKit checkout, if there is one."""
    for root in (Path.cwd(), _REPOSITORY):
        if (root / _CHECKOUT / "diffusionkit" / "mlx" / "__init__.py").is_file():
            return root / _CHECKOUT
    return None


@contextmanager
def _search_path(folder: Path | None) -> Iterator[None]:
    """Lets imports look into `folder` first."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Puts the stand-ins into `sys.modules`, and afterwards what was there before."""
    modules = _modules()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _modules() -> dict[str, ModuleType]:
    modules = {
        "argmaxtools": {"__path__": []},
        "argmaxtools.utils": {"get_logger": logging.getLogger},
        "argmaxtools.test_utils": {
            "AppleSiliconContextMixin": _Machine,
            "InferenceContextSpec": _Specification,
        },
        "diffusionkit.utils": {"bytes2gigabytes": lambda size: size / 1024**3},
    }
    if "transformers" not in sys.modules:
        # It would import torch wherever torch is installed, and takes seconds. DiffusionKit needs it only inside
        # functions that the bridge replaces; called directly, they still get the real classes.
        classes = {name: _LazyClass("transformers", name) for name in ("T5Config", "AutoTokenizer")}
        modules["transformers"] = classes
    return {name: _module(name, content) for name, content in modules.items()}


def _module(name: str, content: dict[str, Any]) -> ModuleType:
    module = ModuleType(name, "A stand-in while DiffusionKit is imported.")
    module.__dict__.update(content)
    return module


class _LazyClass:
    """A class of a module that is imported when the class is first used."""

    def __init__(self, module: str, name: str):
        self._where = (module, name)

    def __getattr__(self, attribute: str) -> Any:
        module, name = self._where
        return getattr(getattr(importlib.import_module(module), name), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, name = self._where
        return getattr(importlib.import_module(module), name)(*args, **kwargs)


class _Specification:
    """What DiffusionKit's inference context derives from; it overrides all that it calls."""


class _Machine:
    """What DiffusionKit prints of the machine when it is verbose."""

    def os_spec(self) -> dict[str, str]:
        """The operating system."""
        return {"os_type": platform.system(), "os_release": platform.release()}

    def device_spec(self) -> dict[str, str]:
        """The processor."""
        return {"product_name": platform.machine()}
