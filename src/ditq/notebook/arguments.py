"""Errors in a notebook name the arguments of its functions, where those of the commands name flags."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ditq.core.errors import UserError

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
ARGUMENTS = {
    "--num-images": "images",
    "--num-steps": "steps",
    "--cfg-weight": "guidance",
    "--calib-dir": "data",
    "--model-path": "path",
    "--out": "folder",
}
"""The flags that have another name here; of all others, the dashes go."""


def names_arguments(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """The function, whose UserErrors about flags name the argument instead."""

    @functools.wraps(function)
    def named(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if not error.what.startswith("--"):
                raise
            flag, between, rest = error.what.partition(" ")
            argument = ARGUMENTS.get(flag, flag.removeprefix("--").replace("-", "_"))
            what = f"{argument}{between}{rest}"
            raise UserError(what, got=error.got, expected=error.expected, remedy=error.remedy) from error

    return named
