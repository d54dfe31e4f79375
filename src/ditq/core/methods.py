"""Methods made from their names and fields, as recipes and flags give them."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from ditq.core.errors import UserError

M = TypeVar("M")


def built(methods: Mapping[str, type[M]], name: str, given: Any, where: str) -> M:
    """The method called `name` with these of its fields; the others keep their defaults.

    Whole numbers become floats where the default is one, so that JSON's 1 is 1.0. Raises UserError, whose message
    begins with `where`, for an unknown name or field, and for a value of another type than the field's default.
    """
    if name not in methods:
        raise UserError(where, got=name, expected=f"float or one of {', '.join(methods)}")
    made: Any = methods[name]
    known = {field.name: field for field in fields(made)}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: {name}", got=given, expected=f"some of {', '.join(known)}, by name")
    for field, value in given.items():
        if field not in known:
            raise UserError(f"{where}: {name}", got=field, expected=f"one of {', '.join(known)}")
        if not _fits(value, known[field]):
            expected = f"a value like its default, {_default(known[field])!r}"
            raise UserError(f"{where}: {name}: {field}", got=repr(value), expected=expected)
    try:
        return made(**{key: _as_default(value, _default(known[key])) for key, value in given.items()})
    except UserError as error:
        what = f"{where}: {name}: {error.what}"
        raise UserError(what, got=error.got, expected=error.expected, remedy=error.remedy) from error


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _fits(value: Any, field: Field) -> bool:
    """Whether a JSON value fits the field; one without a default, or whose default is None, takes any."""
    default = _default(field)
    if not _finite(value):
        return False
    if default is MISSING or default is None:
        return True
    if value is None:
        return "None" in str(field.type)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        # "adaptive" or a number: a union's strings are checked by the method itself
        return isinstance(value, float | int) or (isinstance(value, str) and "str" in str(field.type))
    if isinstance(default, str) and isinstance(value, float | int):
        return "float" in str(field.type)
    if isinstance(default, tuple):
        one = isinstance(value, float | int) and "float" in str(field.type)
        return one or (isinstance(value, list | tuple) and all(map(_is_number, value)))
    return isinstance(value, type(default))


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _as_default(value: Any, default: Any) -> Any:
    """A value that fits, lists as tuples and whole numbers as floats where the default holds these."""
    if isinstance(value, list | tuple):
        return tuple(_as_default(entry, default) for entry in value)
    kinds = {type(entry) for entry in default} if isinstance(default, tuple) else {type(default)}
    return float(value) if _is_number(value) and kinds == {float} else value


def _finite(value: Any) -> bool:
    """Whether all numbers in a JSON value are finite and fit in 64 bits."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float | int) or (math.isfinite(value) and abs(value) < 2.0**63)
