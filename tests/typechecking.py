"""The decorator that jaxtyping's import hook puts around every function of `ditq` while the tests run.

The first calls of each function are checked: solvers call some functions for every column of every layer, and checking
all of these took more than half of the suite's time.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

CHECKED = 500
"""Calls of a function that are checked in a process."""

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""With the numeric tower: an int is a float, as type checkers read it."""


def typechecker(function: Callable) -> Callable:
    """`function` with its arguments and result checked, save for protocols that cannot be checked at run time."""
    for name, hint in function.__annotations__.items():
        if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
            function.__annotations__[name] = Any
    return _check(function)


def first_calls_checked(
    original: Any = None, *, typechecker: Any, decorate: Callable = jaxtyping.jaxtyped
) -> Any:
    """jaxtyping's decorator, which leaves out a function's checks after `CHECKED` calls; classes are always checked."""
    if original is None:
        return lambda original: first_calls_checked(original, typechecker=typechecker)
    checked = decorate(original, typechecker=typechecker)
    if not isfunction(original):
        return checked
    calls = 0

    @wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return checked(*args, **kwargs) if calls <= CHECKED else original(*args, **kwargs)

    return function


jaxtyping.jaxtyped = first_calls_checked
