"""The one way into a model: its linear layers by path, and modules put in their place, for a while or for good."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.nn as nn

from ditq.core.errors import DitqError

M = TypeVar("M", bound=nn.Module)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer by its path as MLX prints it, block 2 before block 10."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    return dict(
        sorted(
            found,
            key=lambda entry: [
                (part.isdigit(), int(part) if part.isdigit() else part) for part in entry[0].split(".")
            ],
        )
    )


@contextmanager
def swapped(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """`model` with the modules at these paths replaced; what was there comes back, whatever happens inside.

    Raises DitqError, before anything is replaced, for a path that is not in the model. A compiled function that was
    traced before does not see the replacements.
    """
    before = {path: _get(*_place(model, path)) for path in modules}
    try:
        replace(model, modules)
        yield model
    finally:
        replace(model, before)


def replace(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Puts each module in the place of the one at its path, for good.

    Raises DitqError, before anything is replaced, for a path that is not in the model.
    """
    places = {path: _place(model, path) for path in modules}
    for path, module in modules.items():
        _set(*places[path], module)


def twin(model: M) -> M:
    """Another module of the same parameters, so that replacing layers of one leaves the other alone."""
    made = copy.copy(model)
    for name, child in model.items():
        if isinstance(child, nn.Module):
            made[name] = twin(child)
        elif isinstance(child, list):
            made[name] = [twin(part) if isinstance(part, nn.Module) else part for part in child]
    return made


def _place(model: nn.Module, path: str) -> tuple[Any, str]:
    """The container of the module at `path`, and its name or index there."""
    *parents, name = path.split(".")
    container: Any = model
    for part in [*parents, name]:
        owner = container
        container = _get(owner, part) if _has(owner, part) else None
        if container is None:
            raise DitqError(f"{path}: no such module in {type(model).__name__}")
    return owner, name


def _has(container: Any, name: str) -> bool:
    return name.isdigit() and int(name) < len(container) if isinstance(container, list) else name in container


def _get(container: Any, name: str) -> Any:
    return container[int(name)] if isinstance(container, list) else container[name]


def _set(container: Any, name: str, module: nn.Module) -> None:
    container[int(name) if isinstance(container, list) else name] = module
