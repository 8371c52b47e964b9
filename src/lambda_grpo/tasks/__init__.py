"""Tasks with a verifiable answer, by name.

A name is one of `TASKS`, a reasoning-gym data set, or `module:attribute` for a task of your own: a callable that
takes `split`, `size` and `seed` and returns a `Task`.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable

from lambda_grpo.errors import UserError
from lambda_grpo.tasks.arithmetic import Arithmetic
from lambda_grpo.tasks.base import Example, Task, grade
from lambda_grpo.tasks.gym import GymTask, gym_names

__all__ = ["TASKS", "Example", "Task", "grade", "load_task"]

TASKS: dict[str, Callable[..., Task]] = {"arithmetic": Arithmetic}


def load_task(name: str, split: str = "train", *, size: int, seed: int = 0) -> Task:
    """The task of that name.

    Args:
        split: "train", or "test" for held-out examples.
        size: number of examples.
        seed: from which the examples follow.

    Raises:
        UserError: no such task, or one whose first example has nothing to check an answer against.
    """
    if size < 1:
        raise UserError(f"task {name!r}: the number of examples must be at least 1, got {size}")
    if name in TASKS:
        task = TASKS[name](split=split, size=size, seed=seed)
    elif ":" in name:
        task = _own_task(name)(split=split, size=size, seed=seed)
    elif name in (names := gym_names()):
        task = GymTask(name, split=split, size=size, seed=seed)
    else:
        close = difflib.get_close_matches(name, [*TASKS, *names], n=3)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        more = "" if names else " (pip install 'lambda-grpo[gym]' adds reasoning-gym's data sets)"
        raise UserError(
            f"unknown task {name!r}: use {', '.join(TASKS)}, a reasoning-gym data set{more}, or module:attribute "
            f"for your own.{meant}"
        )
    _check(name, task)
    return task


def _own_task(name: str) -> Callable[..., Task]:
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a program installed by pip doesn't look in the working directory
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise  # the user's module is there, something that it imports isn't
        raise UserError(f"task {name!r}: no module {module_name!r} in the working directory or installed") from error
    except AttributeError as error:
        raise UserError(f"task {name!r}: module {module_name!r} has no {attribute!r}") from error


def _check(name: str, task: Task) -> None:
    """Refuse at the start what would only fail, or silently score 0, in the middle of a run."""
    if not isinstance(task, Task):
        raise UserError(f"task {name!r} must have a name, __len__, __getitem__ and grade (see lambda_grpo.tasks.Task)")
    example = task[0]
    if example.answer in (None, "") and not example.metadata:
        raise UserError(
            f"task {name!r} has no checkable answer: its first example has neither an answer nor metadata to grade by"
        )
    score = grade(task, "", example)
    if not (isinstance(score, (int, float)) and 0.0 <= score <= 1.0):
        raise UserError(f"task {name!r}: grade must return a number from 0 to 1, got {score!r}")
