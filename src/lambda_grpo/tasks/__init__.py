"""Tasks with a verifiable answer, by name.

A name is one of `TASKS`, a reasoning-gym data set, or `module:attribute` for a task of your own: a callable that
takes `split`, `size` and `seed` and returns a `Task`. The maths benchmarks (`BENCHMARKS`) and local files of problems
are for evaluation: `benchmarks.py`, `problems.py`.

Four of them are beds to compare objectives on: which length is right is known there, for a built-in policy.

    arithmetic          longer: a worked solution is right, a direct one of many terms mostly wrong (builtin)
    shorter_is_right    shorter: the answer at once is right, a walk to it mostly wrong (builtin-llama)
    neutral             neither: right as often at any length (builtin-llama)
    null                none: a coin flip, so any drift of length is the objective's own bias (builtin-llama)
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from lambda_grpo.errors import UserError
from lambda_grpo.imports import import_callable
from lambda_grpo.tasks.arithmetic import Arithmetic
from lambda_grpo.tasks.base import Example, Grade, Task, grade_all
from lambda_grpo.tasks.benchmarks import BENCHMARKS
from lambda_grpo.tasks.gym import GymTask, gym_names
from lambda_grpo.tasks.letters import Neutral, Null, ShorterIsRight

__all__ = ["TASKS", "Example", "Grade", "Task", "grade_all", "load_task"]

TASKS: dict[str, Callable[..., Task]] = {
    "arithmetic": Arithmetic,
    "shorter_is_right": ShorterIsRight,
    "neutral": Neutral,
    "null": Null,
}


def load_task(name: str, split: str = "train", *, size: int, seed: int = 0) -> Task:
    """The task of that name.

    Args:
        split: "train", or "test" for held-out examples.
        size: number of examples.
        seed: from which the examples follow.

    Raises:
        UserError: no such task, or one that can't be used: without examples, say, or without checkable answers.
    """
    if size < 1:
        raise UserError(f"task {name!r}: the number of examples must be at least 1, got {size}")
    if name in TASKS:
        task = TASKS[name](split=split, size=size, seed=seed)
    elif ":" in name:
        task = _own_task(name, split=split, size=size, seed=seed)
    elif name in (names := gym_names()):
        task = GymTask(name, split=split, size=size, seed=seed)
    elif name in BENCHMARKS:
        raise UserError(
            f"task {name!r} is a benchmark, for lambda-grpo eval: to train on maths, set dataset_name and reward_funcs"
        )
    else:
        close = difflib.get_close_matches(name, [*TASKS, *BENCHMARKS, *names], n=3)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        more = "" if names else " (pip install 'lambda-grpo[gym]' adds reasoning-gym's data sets)"
        raise UserError(
            f"unknown task {name!r}: use {', '.join(TASKS)}, a reasoning-gym data set{more}, or module:attribute "
            f"for your own.{meant}"
        )
    _check(name, task)
    return task


def _own_task(name: str, **arguments: str | int) -> Task:
    module_name, _, attribute = name.partition(":")
    factory: Callable[..., Task] = import_callable(f"task {name!r}", module_name, attribute)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:  # asked beforehand: a TypeError from inside the call is the task's own
        raise UserError(f"task {name!r} is called with split, size and seed, which it doesn't take: {error}") from error
    except ValueError:
        pass  # some callables written in C don't tell their signature
    return factory(**arguments)


def _check(name: str, task: Task) -> None:
    """Refuse at the start what would only fail, or silently score 0, in the middle of a run."""
    if not isinstance(task, Task) or not isinstance(task.name, str):
        raise UserError(f"task {name!r} must have a name, __len__, __getitem__ and grade (see lambda_grpo.tasks.Task)")
    if len(task) == 0:
        raise UserError(f"task {name!r} has no examples: its length is 0")
    example = task[0]
    if not isinstance(example, Example) or not isinstance(example.prompt, str):
        raise UserError(
            f"task {name!r}: __getitem__ must return a lambda_grpo.tasks.Example with a prompt of text, got {example!r}"
        )
    if example.answer in (None, "") and not example.metadata:
        raise UserError(
            f"task {name!r} has no checkable answer: its first example has neither an answer nor metadata to grade by"
        )
    score = grade_all(task, [""], [example])[0].score
    if not (isinstance(score, (int, float)) and 0.0 <= score <= 1.0):
        raise UserError(f"task {name!r}: grade must return a number from 0 to 1, got {score!r}")
