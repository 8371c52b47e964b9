"""Importing what a user names by its import path: a task, a reward function, an objective."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.suggestions import did_you_mean


def import_name(what: str, module_name: str, attribute: str) -> Any:
    """An attribute of a module in the working directory or of an installed one.

    Args:
        what: its description in error messages, e.g. "task 'my_module:MyTask'".

    Raises:
        UserError: there is no such module, or it has no such attribute. An exception raised while the module is
            imported propagates unchanged, so that its author sees where it comes from.
    """
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(
            f"{what}: need a module as `import` takes it (a file my_file.py is my_file) and a name in it, "
            f"got module {module_name!r} and name {attribute!r}"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, where a console script doesn't look by itself
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module exists, but something that it imports doesn't
        raise UserError(f"{what}: no module {error.name!r} in the working directory or installed") from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise UserError(f"{what}: module {module_name!r} has no {attribute!r}{did_you_mean(attribute, names)}")
    return getattr(module, attribute)


def import_callable(what: str, module_name: str, attribute: str) -> Any:
    """The same for something callable.

    Raises:
        UserError: as for `import_name`, or the attribute isn't callable.
    """
    found = import_name(what, module_name, attribute)
    if not callable(found):
        raise UserError(f"{what}: {attribute!r} isn't callable: it is {found!r}")
    return found
