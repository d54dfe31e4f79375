"""Stored and user-written JSON held against its shape; a message names file, key, found and expected.

The shape is an ordinary type. A dataclass is a closed object: a key that it does not know is an error, and an instance
comes back. A TypedDict is an open one, for files that others may add to: unknown keys stay, and the dict itself comes
back. Nothing is converted besides: a bool is no number, 64.0 is no whole number, a string is no list, NaN is nothing.

    @dataclass(frozen=True)
    class Line:
        paths: Annotated[tuple[str, ...], FILLED]
        bits: Annotated[int, within(2, 8)]
        group_size: Literal[32, 64, 128] | None = None
        symmetric: bool = True

    class Content(TypedDict):
        about: NotRequired[str]             # from typing_extensions where Python is 3.10
        methods: dict[str, dict[str, Any]]

    lines = checked(content.get("layers"), list[Line], f"{path}: layers")

    my.json: layers[2]: bits: got 64.0; expected a whole number, without a decimal point
    my.json: layers[0]: paths: got '*.mlp.fc1'; expected a list of texts; write ["*.mlp.fc1"]
    my.json: layers[1]: got the unknown key 'bit'; expected only paths, bits, group_size, symmetric; is bits meant?
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from ditq.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Limit:
    """What a value must be besides its type, in words and as a test; goes into `Annotated[type, limit]`."""

    words: str
    holds: Callable[[Any], bool]


def within(low: float, high: float) -> Limit:
    """From `low` to `high`, both included."""
    return Limit(f"from {low} to {high}", lambda value: low <= value <= high)


def at_least(low: float) -> Limit:
    """`low` or more."""
    return Limit(f"at least {low}", lambda value: value >= low)


def above(low: float) -> Limit:
    """More than `low`."""
    return Limit(f"above {low}", lambda value: value > low)


FILLED = Limit("with one entry at least", bool)
"""A list, object or text that is not empty."""


@overload
def checked(value: Any, shape: type[T], where: str) -> T: ...
@overload
def checked(value: Any, shape: Any, where: str) -> Any: ...
def checked(value: Any, shape: Any, where: str) -> Any:
    """`value`, parsed JSON, as `shape` describes it. Raises UserError that begins with `where` and names the key."""
    if shape is Any:
        return value
    if get_origin(shape) is Annotated:
        return _limited(value, shape, where)
    if get_origin(shape) in (Union, UnionType):
        return _one_of(value, get_args(shape), where)
    if get_origin(shape) is Literal:
        if not any(value == one and type(value) is type(one) for one in get_args(shape)):
            raise _other(value, shape, where)
        return value
    if is_dataclass(shape) or _is_typed_dict(shape):
        return _object(value, shape, where)
    if not _is_kind(value, shape):
        raise _other(value, shape, where)
    return _entries(value, shape, where)


def shown(value: Any) -> str:
    """A value as an error message quotes it: as JSON writes it, cut off at 60 characters."""
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _limited(value: Any, shape: Any, where: str) -> Any:
    found = checked(value, shape.__origin__, where)
    for limit in shape.__metadata__:
        if isinstance(limit, Limit) and found is not None and not limit.holds(found):
            raise UserError(where, got=shown(value), expected=f"{_words(shape.__origin__)} {limit.words}")
    return found


def _one_of(value: Any, shapes: tuple[Any, ...], where: str) -> Any:
    """The value as the first of the shapes that fits; the error is that of the only one whose kind it is."""
    failures = []
    for shape in shapes:
        try:
            return checked(value, shape, where)
        except UserError as error:
            if _is_kind(value, shape):
                failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise _other(value, Union[shapes], where)  # noqa: UP007


def _object(value: Any, shape: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _other(value, shape, where)
    hints = get_type_hints(shape, include_extras=True)
    if _is_typed_dict(shape):
        required = shape.__required_keys__
    else:
        hints = {field.name: hints[field.name] for field in fields(shape) if field.init}
        required = [f.name for f in fields(shape) if f.default is MISSING and f.default_factory is MISSING]
        for key in value:
            if key not in hints:
                near = get_close_matches(str(key), hints, 1)
                remedy = f"is {near[0]} meant?" if near else None
                raise UserError(
                    where,
                    got=f"the unknown key {shown(key)}",
                    expected=f"only {', '.join(hints)}",
                    remedy=remedy,
                )
    for key in hints:
        if key in required and key not in value:
            raise UserError(f"{where}: {key}", got="nothing: the key is missing", expected=_words(hints[key]))
    found = {key: checked(value[key], hint, f"{where}: {key}") for key, hint in hints.items() if key in value}
    return {**value, **found} if _is_typed_dict(shape) else shape(**found)


def _entries(value: Any, shape: Any, where: str) -> Any:
    """A list's, tuple's or dict's own entries checked; anything else as it is."""
    arguments = get_args(shape)
    if isinstance(value, Mapping) and arguments:
        return {key: checked(one, arguments[1], f"{where}: {key}") for key, one in value.items()}
    if not isinstance(value, list | tuple):
        return value
    kind = get_origin(shape) or shape
    if kind is list or arguments[1:] == (...,):
        inner = [arguments[0] if arguments else Any] * len(value)
    else:
        inner = list(arguments) if arguments else [Any] * len(value)
    if len(inner) != len(value):
        raise UserError(where, got=f"{len(value)} entries", expected=f"{len(inner)}")
    return kind(checked(one, hint, f"{where}[{i}]") for i, (one, hint) in enumerate(zip(value, inner)))  # noqa: B905


def _is_kind(value: Any, shape: Any) -> bool:
    """Whether a value is of a shape's outermost kind, whatever it holds."""
    shape = shape.__origin__ if get_origin(shape) is Annotated else shape
    kind = get_origin(shape) or shape
    if kind is Any:
        return True
    if kind is Literal:
        return any(type(value) is type(one) for one in get_args(shape))
    if kind in (Union, UnionType):
        return any(_is_kind(value, one) for one in get_args(shape))
    if kind is None or kind is NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if kind is float:
        number = isinstance(value, float | int) and not isinstance(value, bool)
        return number and (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    if is_dataclass(kind) or _is_typed_dict(kind) or (isinstance(kind, type) and issubclass(kind, Mapping)):
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return isinstance(value, kind)


def _other(value: Any, shape: Any, where: str) -> UserError:
    """The error for a value that is not of this shape."""
    remedy = None
    if get_origin(shape) in (list, tuple) and get_args(shape) and _is_kind(value, get_args(shape)[0]):
        remedy = f"write {json.dumps([value], ensure_ascii=False)}" if len(shown(value)) < 60 else None
    return UserError(where, got=shown(value), expected=_words(shape), remedy=remedy)


def _words(shape: Any, plural: bool = False) -> str:
    """`list[str]` -> "a list of texts"."""
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is Annotated:
        limits = "".join(f" {limit.words}" for limit in arguments[1:] if isinstance(limit, Limit))
        return _words(arguments[0], plural) + limits
    if origin is Literal:
        return " or ".join(map(shown, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_words(one, plural) for one in arguments)
    kind = origin or shape
    if kind in (list, tuple):
        inner = f" of {_words(arguments[0], True)}" if arguments and arguments[0] is not Any else ""
        return ("lists" if plural else "a list") + inner
    one, many = {
        str: ("a text", "texts"),
        int: ("a whole number, without a decimal point", "whole numbers"),
        float: ("a finite number", "finite numbers"),
        bool: ("true or false", "true or false"),
        NoneType: ("null", "null"),
        None: ("null", "null"),
    }.get(kind, ("an object", "objects"))
    return many if plural else one


def _is_typed_dict(shape: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, dict) and hasattr(shape, "__required_keys__")
