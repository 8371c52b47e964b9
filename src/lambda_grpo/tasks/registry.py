"""Loading a task by name.

A name is one of `TASKS`, a reasoning-gym data set, or `module:attribute` for a task of your own: a callable that
takes `split`, `size` and `seed` and returns a `Task`. Maths problems come from data sets: those for evaluation are in
`maths/benchmarks.py`, those for training in `maths/training_sets.py`.

The four in `TASKS` are testbeds for objectives: for a built-in policy it is known which completion length is best.

    arithmetic          longer: worked solutions are right, direct ones of many terms mostly wrong (builtin)
    shorter_is_right    shorter: direct answers are right, step-by-step ones mostly wrong (builtin-llama)
    neutral             no length: all are equally accurate (builtin-llama)
    null                no length: rewards are coin flips, so any drift of length is a bias (builtin-llama)
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

DEFAULT_EVAL_SIZE = 500  # examples of a generated test split, unless a number is given

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
    """A task to evaluate on: a benchmark, a local file of problems, or the test split of another task.

    Args:
        size: how many examples, from the first; by default all, or `DEFAULT_EVAL_SIZE` of a generated task.
        seed: of a generated task.
        data: another source of a benchmark.
        question, answer: column names in a local file or a benchmark.

    Raises:
        UserError: the task can't be loaded.
    """
    if name in BENCHMARKS:
        return load_benchmark(name, data=data, size=size, question=question, answer=answer)
    if is_file_of_problems(name):
        return local_problems(name, size=size, question=question, answer=answer)
    return load_task(name, "test", size=size or DEFAULT_EVAL_SIZE, seed=seed)


def load_task(name: str, split: str = "train", *, size: int, seed: int = 0) -> Task:
    """A task that generates its examples, by name.

    Args:
        split: "train", or "test" for held-out examples.
        size: number of examples.
        seed: of the examples.

    Raises:
        UserError: there is no such task, or it can't be used: for example because it has no examples, or no checkable
            answers.
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
    except TypeError as error:  # checked before the call: a TypeError inside it is the task's own
        raise UserError(f"task {name!r} is called with split, size and seed, which it doesn't take: {error}") from error
    except ValueError:
        pass  # some callables written in C have no signature
    return factory(**arguments)


def _check(name: str, task: Task) -> None:
    """Refuse a task that would fail, or silently score 0, in the middle of a run."""
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
