"""What a run trains on: a task, or the data set and reward functions that a TRL configuration names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from datasets import Dataset, load_dataset
from trl.rewards import get_soft_overlong_punishment
from trl.scripts.grpo import GRPOScriptArguments

from lambda_grpo.errors import UserError
from lambda_grpo.tasks import Task, grade

RewardFunction = Callable[..., list[float | None]]


def task_dataset(task: Task, split: str = "train") -> Dataset:
    """A task as TRL reads it: columns prompt, answer, and index and split to find the example again."""
    examples = [task[i] for i in range(len(task))]
    return Dataset.from_dict(
        {
            "prompt": [example.prompt for example in examples],
            "answer": [example.answer for example in examples],
            "index": list(range(len(examples))),
            "split": [split] * len(examples),
        }
    )


def task_reward(task: Task, held_out: Task | None = None) -> RewardFunction:
    """A task's grader as TRL calls it. Named after the task, so that TRL logs it as rewards/NAME."""
    splits = {"train": task, "test": held_out or task}

    def reward(completions: list[str], index: list[int], split: list[str], **_: Any) -> list[float | None]:
        return [
            grade(task, completion, splits[name][i])
            for completion, i, name in zip(completions, index, split, strict=True)
        ]

    reward.__name__ = task.name
    return reward


def trl_datasets(data: GRPOScriptArguments, eval_strategy: str) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation rows, loaded as `trl grpo` loads them. Raises UserError where they can't be."""
    try:
        dataset = load_dataset(data.dataset_name, name=data.dataset_config, streaming=data.dataset_streaming)
        return dataset[data.dataset_train_split], None if eval_strategy == "no" else dataset[data.dataset_test_split]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"can't load dataset_name {data.dataset_name!r}: {' '.join(str(error).split())}") from error


def trl_rewards(data: GRPOScriptArguments) -> list[RewardFunction | str]:
    """The rewards that a TRL configuration names: of trl.rewards, import paths, or a reward model."""
    rewards: list[RewardFunction | str] = []
    if data.reward_model_name_or_path:
        rewards.append(data.reward_model_name_or_path)  # the trainer loads it
    for name in data.reward_funcs or []:
        rewards.append(_reward_function(name))
    if not rewards:
        raise UserError("dataset_name needs reward_funcs: names from trl.rewards, or import paths (package.module.f)")
    return rewards


def _reward_function(name: str) -> RewardFunction:
    if name == "get_soft_overlong_punishment":  # a factory; the numbers are those of `trl grpo`
        return get_soft_overlong_punishment(max_completion_len=1280, soft_punish_cache=256)
    if "" not in sys.path:
        sys.path.insert(0, "")  # a program installed by pip doesn't look in the working directory
    module_name, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name or "trl.rewards"), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"unknown reward function {name!r}: {error}") from error
