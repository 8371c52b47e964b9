"""Options of `lambda-grpo train` that TRL doesn't have: what to train on, and how to evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from lambda_grpo.options.option import option


@dataclass
class TaskOptions:
    """Task and data."""

    task: str | None = option(
        None,
        "A built-in task, a reasoning-gym data set, gsm8k, math, dapo_math_17k, a file of problems, or "
        "module:attribute for your own.",
    )
    question_column: str | None = option(
        None, "Column of the problems in a file or in dataset_name; outer.inner for a nested one."
    )
    answer_column: str | None = option(None, "Column of the reference answers.")
    template: str | None = option(None, "Prompt template, see lambda-grpo eval --help.")
    task_size: Annotated[int, Ge(1)] | None = option(
        None, "Number of training examples. Default: all of a data set, 4096 of a generated task."
    )
    task_seed: int = option(0, "Seed of generated examples, for training and held-out ones.")
    eval_task: str | None = option(
        None, "Task to evaluate on before and after. Default: the task's own held-out problems."
    )
    eval_size: Annotated[int, Ge(0)] = option(500, "Most problems to evaluate on; 0 for no evaluation.")
    eval_every: Annotated[int, Ge(0)] = option(
        0, "Evaluate on the held-out problems every so many optimiser steps, too; 0 for before and after alone."
    )
    check_overlap: list[str] | None = option(
        None, "Test sets to search for training problems; benchmarks for all eight."
    )
    remove_overlap: bool = option(False, "Leave out the training problems found there.")
