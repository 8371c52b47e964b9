"""Tasks with a verifiable answer, by name.

A name is one of `TASKS`, a reasoning-gym data set, or `module:attribute` for a task of your own: a callable that
takes `split`, `size` and `seed` and returns a `Task`. Problems of maths are data sets: those to evaluate on in
`maths/benchmarks.py`, those to train on in `maths/training_sets.py`.

Four of them are beds to compare objectives on: which length is right is known there, for a built-in policy.

    arithmetic          longer: a worked solution is right, a direct one of many terms mostly wrong (builtin)
    shorter_is_right    shorter: the answer at once is right, a walk to it mostly wrong (builtin-llama)
    neutral             neither: right as often at any length (builtin-llama)
    null                none: a coin flip, so any drift of length is the objective's own bias (builtin-llama)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from lambda_grpo.errors import UserError
from lambda_grpo.import_paths import import_callable
from lambda_grpo.suggestions import did_you_mean
from lambda_grpo.tasks.arithmetic import Arithmetic
from lambda_grpo.tasks.base import Example, Task, grade_all
from lambda_grpo.tasks.gym import GymTask, gym_names
from lambda_grpo.tasks.letters import Neutral, Null, ShorterIsRight
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS, load_benchmark
from lambda_grpo.tasks.maths.problems import is_file_of_problems, local_problems
from lambda_grpo.tasks.maths.training_sets import TRAINING_SETS

MADE = 500  # test examples of a task that makes them, where no number is given

TASKS: dict[str, Callable[..., Task]] = {
    "arithmetic": Arithmetic,
    "shorter_is_right": ShorterIsRight,
    "neutral": Neutral,
    "null": Null,
}


def load_test_task(
    name: str,
    *,
    size: int | None = None,
    seed: int = 0,
    data: str | None = None,
    question: str | None = None,
    answer: str | None = None,
) -> Task:
    """What a model can be evaluated on: a benchmark, a local file of problems, or the test split of another task.

    Args:
        size: the first so many; all by default, or `MADE` of a task that makes them.
        seed: of made examples.
        data: another source of a benchmark.
        question, answer: columns of a local file or a benchmark.

    Raises:
        UserError: it can't be loaded.
    """
    if name in BENCHMARKS:
        return load_benchmark(name, data=data, size=size, question=question, answer=answer)
    if is_file_of_problems(name):
        return local_problems(name, size=size, question=question, answer=answer)
    return load_task(name, "test", size=size or MADE, seed=seed)


def load_task(name: str, split: str = "train", *, size: int, seed: int = 0) -> Task:
    """The task of that name, of those that make their examples.

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
            f"task {name!r} is a benchmark, for lambda-grpo eval: to train on maths, take {', '.join(TRAINING_SETS)}, "
            "a file of problems, or dataset_name with question_column and answer_column"
        )
    elif name in TRAINING_SETS:
        held_out = TRAINING_SETS[name].held_out
        raise UserError(f"task {name!r} is for training: to evaluate, take {held_out or 'a benchmark'}")
    elif Path(name).exists():
        raise UserError(
            f"task {name!r} is no file of problems (.jsonl, .json, .parquet): for a folder set dataset_name, with "
            "question_column and answer_column"
        )
    else:
        more = "" if names else " (pip install 'lambda-grpo[gym]' adds reasoning-gym's data sets)"
        meant = did_you_mean(name, [*TASKS, *TRAINING_SETS, *BENCHMARKS, "benchmarks", *names])
        raise UserError(
            f"unknown task {name!r}{meant}: use {', '.join(TASKS)}, a reasoning-gym data set{more}, "
            f"{', '.join(TRAINING_SETS)}, a .jsonl or .parquet file, or module:attribute for your own"
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
