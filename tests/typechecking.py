"""The decorator that jaxtyping's import hook puts around every function of `ditq` while the tests run."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""With the numeric tower: an int is a float, as type checkers read it."""


def typechecker(function: Callable) -> Callable:
    """`function` with its arguments and result checked, save for protocols that cannot be checked at run time."""
    for name, hint in function.__annotations__.items():
        if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
            function.__annotations__[name] = Any
    return _check(function)
