"""Seeded mutations of stored JSON and arrays: what a careless hand, a bug or a bad disk makes of a file."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

NUMBERS: list[Callable[[Any], Any]] = [
    lambda x: -x,
    lambda x: 0,
    lambda x: -1,
    lambda x: x + 0.5,
    lambda x: x * 1e30,
    lambda x: 1e-40,
    lambda x: float("nan"),
    lambda x: float("inf"),
    lambda x: float("-inf"),
    lambda x: 10**25,
    lambda x: str(x),
    lambda x: [x],
    lambda x: True,
    lambda x: None,
    lambda x: {},
]
OTHERS: list[Callable[[Any], Any]] = [
    lambda x: None,
    lambda x: 0,
    lambda x: 1.5,
    lambda x: "",
    lambda x: "../elsewhere",
    lambda x: [],
    lambda x: {},
    lambda x: [x],
    lambda x: {"x": x},
    lambda x: not x,
    lambda x: list(x) if isinstance(x, str | dict) else "x",
]


def json_mutations(content: Any, rng: np.random.Generator, count: int) -> Iterator[tuple[str, Any]]:
    """`count` copies of parsed JSON, each with one place changed, removed, renamed or swapped with its neighbour."""
    places = list(_places(content))
    for _ in range(count):
        place = places[rng.integers(len(places))]
        changed = copy.deepcopy(content)
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        key, kind = place[-1], rng.integers(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[f"{key}_"] = parent.pop(key)
        elif kind == 2 and len(parent) > 1:
            other = (
                list(parent)[rng.integers(len(parent))]
                if isinstance(parent, dict)
                else rng.integers(len(parent))
            )
            parent[key], parent[other] = parent[other], parent[key]
        else:
            number = isinstance(parent[key], float | int) and not isinstance(parent[key], bool)
            options = NUMBERS if number else OTHERS
            parent[key] = options[rng.integers(len(options))](parent[key])
        yield f"{'.'.join(map(str, place))} ({kind})", changed


def array_mutations(
    arrays: dict[str, np.ndarray], rng: np.random.Generator, count: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """`count` copies of named arrays, each with one of them changed in a value, its sign, dtype, shape or name."""
    names = [name for name in arrays if name != "__meta__"]
    for _ in range(count):
        name, kind = names[rng.integers(len(names))], rng.integers(9)
        changed, array = dict(arrays), arrays[name].copy()
        if kind == 0:
            del changed[name]
        elif kind == 1:
            changed[f"{name}_"] = changed.pop(name)
        elif kind == 2:
            changed[name] = array.astype(
                [np.int32, np.float64, np.bool_, ">f4", np.complex64][rng.integers(5)]
            )
        elif kind == 3:
            changed[name] = [array[None], array.reshape(-1)[:1], array.reshape(-1)[:0], array.T][
                rng.integers(4)
            ]
        elif kind == 4:
            changed[name] = -array
        elif kind == 5:
            changed[name] = np.full_like(array, [0, 1][rng.integers(2)])
        else:
            values = [0, -1, np.nan, np.inf, -np.inf, 1e30, 3e38, 1e-38, 0.3, 127]
            with np.errstate(all="ignore"):
                flat = array.reshape(-1)
                flat[rng.integers(flat.size)] = np.float64(values[rng.integers(len(values))]).astype(
                    array.dtype
                )
            changed[name] = flat.reshape(array.shape)
        yield f"{name} ({kind})", changed


def _places(content: Any, at: tuple = ()) -> Iterator[tuple]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*at, key)
        yield from _places(content[key], (*at, key))
