"""What a user names by its import path: a task, a reward function, an objective."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.suggestions import close_name


def import_name(what: str, module_name: str, attribute: str) -> Any:
    """What a module holds under that name; the module is in the working directory or installed.

    Args:
        what: how a message calls it, e.g. "task 'my_module:MyTask'".

    Raises:
        UserError: there is no such module, or it has no such attribute. What a module that is there raises while it is
            imported is passed on as it is: its author wants to see where.
    """
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(
            f"{what}: need a module as `import` takes it (a file my_file.py is my_file) and a name in it, "
            f"got module {module_name!r} and name {attribute!r}"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # a program installed by pip doesn't look in the working directory
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module is there, something that it imports isn't
        raise UserError(f"{what}: no module {error.name!r} in the working directory or installed") from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        close = close_name(attribute, names)
        meant = "" if close is None else f": did you mean {close!r}?"
        raise UserError(f"{what}: module {module_name!r} has no {attribute!r}{meant}")
    return getattr(module, attribute)


def import_callable(what: str, module_name: str, attribute: str) -> Any:
    """The same of what can be called.

    Raises:
        UserError: as `import_name`, and for what can't be called.
    """
    found = import_name(what, module_name, attribute)
    if not callable(found):
        raise UserError(f"{what}: {attribute!r} can't be called: it is {found!r}")
    return found
