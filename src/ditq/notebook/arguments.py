"""The arguments of the notebook's functions: checked before anything is computed, and named by the errors.

An argument of one name means the same in every function, and `CHECKS` says what it may be, within the bounds of the
commands. Errors name arguments where those of the commands name flags.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from ditq.core.errors import UserError
from ditq.notebook.checks import (
    Check,
    a_dtype,
    a_folder,
    a_number,
    a_path,
    a_recipe,
    a_size,
    a_text,
    a_word,
    some_prompts,
    true_or_false,
    whole,
)

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
FLAGS = {
    "--num-images": "images",
    "--num-steps": "steps",
    "--cfg-weight": "guidance",
    "--calib-dir": "data",
    "--model-path": "path",
    "--out": "folder",
}
"""The flags that have another name here; of all others, the dashes go."""
CHECKS: Mapping[str, Check] = {
    "activations": true_or_false,
    "batch_size": whole("--batch-size"),
    "count": whole("--num-prompts"),
    "dtype": a_dtype,
    "folder": a_folder,
    "force": true_or_false,
    "guidance": a_number("--cfg-weight"),
    "images": whole("--num-images"),
    "keep_cache": true_or_false,
    "name": a_word,
    "negative": a_text,
    "path": a_path,
    "prompts": some_prompts,
    "recipe": a_recipe,
    "seed": whole("--seed"),
    "size": a_size,
    "steps": whole("--steps"),
    "text_encoders": a_word,
    "work": a_folder,
}
"""By argument; a default passes unchecked."""


def checked_arguments(**own: Check) -> Callable[[Callable[Given, Returned]], Callable[Given, Returned]]:
    """A decorator: the function is given its arguments as their checks return them, and its UserErrors about flags
    name the argument instead.

    `own` are checks of this function's alone, in place of those of `CHECKS`.
    """
    checks = {**CHECKS, **own}

    def decorate(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
            bound = signature.bind(*args, **kwargs)
            for argument, value in bound.arguments.items():
                if argument in checks and value is not signature.parameters[argument].default:
                    bound.arguments[argument] = checks[argument](argument, value)
            try:
                return function(*bound.args, **bound.kwargs)
            except UserError as error:
                if not error.what.startswith("--"):
                    raise
                raise _about_argument(error) from error

        return checked

    return decorate


def _about_argument(error: UserError) -> UserError:
    """The error about a flag as one about the argument."""
    flag, between, rest = error.what.partition(" ")
    argument = FLAGS.get(flag, flag.removeprefix("--").replace("-", "_"))
    what = f"{argument}{between}{rest}"
    return UserError(what, got=error.got, expected=error.expected, remedy=error.remedy)
