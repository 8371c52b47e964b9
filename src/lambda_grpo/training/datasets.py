"""Data sets and reward functions that a TRL configuration names: dataset_name, datasets, reward_funcs."""

from __future__ import annotations

from collections.abc import Callable

from datasets import Dataset, IterableDataset, load_dataset
from trl import DatasetMixtureConfig, get_dataset
from trl.data_utils import is_conversational
from trl.rewards import get_soft_overlong_punishment
from trl.scripts.grpo import GRPOScriptArguments

from lambda_grpo.errors import UserError
from lambda_grpo.import_paths import import_callable
from lambda_grpo.suggestions import did_you_mean
from lambda_grpo.tasks.maths.problems import loading

RewardFunction = Callable[..., list[float | None]]

# The names that `trl grpo` knows, and this package's own
REWARDS = {
    "accuracy_reward": "trl.rewards", "reasoning_accuracy_reward": "trl.rewards", "think_format_reward": "trl.rewards",
    "math_accuracy": "lambda_grpo.tasks.maths.rewards", "boxed_format": "lambda_grpo.tasks.maths.rewards",
}  # fmt: skip


def trl_datasets(
    data: GRPOScriptArguments, mixture: DatasetMixtureConfig, eval_strategy: str
) -> tuple[Dataset, Dataset | None]:
    """The training and evaluation data, loaded as `trl grpo` does.

    Raises:
        UserError: the data can't be loaded, or its first row isn't a training example.
    """
    name = "datasets" if mixture.datasets else f"dataset_name {data.dataset_name!r}"
    with loading(name):
        if mixture.datasets:
            splits = get_dataset(mixture)
        else:
            splits = load_dataset(data.dataset_name, name=data.dataset_config, streaming=data.dataset_streaming)

    def load_split(key: str, split: str) -> Dataset:
        if split not in splits:
            meant = did_you_mean(str(split), map(str, splits))
            raise UserError(f"{key} is {split!r}, but {name} has no such split{meant}: it has {', '.join(splits)}")
        _check_rows(f"{name}, split {split!r},", splits[split])
        return splits[split]

    train = load_split("dataset_train_split", data.dataset_train_split)
    return train, None if eval_strategy == "no" else load_split("dataset_test_split", data.dataset_test_split)


def is_conversation(dataset: Dataset | IterableDataset) -> bool:
    """Whether the prompts are lists of messages, which need a chat template."""
    return is_conversational({"prompt": next(iter(dataset))["prompt"]})


def _check_rows(name: str, dataset: Dataset | IterableDataset) -> None:
    row = next(iter(dataset), None)
    if row is None:
        raise UserError(f"{name} holds no examples")
    if "prompt" not in row:
        raise UserError(f"{name} needs a column 'prompt', it has {', '.join(row)}: rename the column of the prompts")
    prompt = row["prompt"]
    if not isinstance(prompt, str) and not (prompt and is_conversational({"prompt": prompt})):
        raise UserError(f"{name} needs text or lists of messages (role, content) as prompts, got {prompt!r}")


def trl_rewards(data: GRPOScriptArguments) -> list[RewardFunction | str]:
    """The rewards of a TRL configuration: functions of trl.rewards, import paths, or a reward model."""
    rewards: list[RewardFunction | str] = []
    if data.reward_model_name_or_path:
        rewards.append(data.reward_model_name_or_path)  # the trainer loads it
    for name in data.reward_funcs or []:
        rewards.append(_reward_function(name))
    if not rewards:
        raise UserError("dataset_name needs reward_funcs: names from trl.rewards, or import paths (package.module.f)")
    return rewards


def _reward_function(name: str) -> RewardFunction:
    if name == "get_soft_overlong_punishment":  # a factory, with the values of `trl grpo`
        return get_soft_overlong_punishment(max_completion_len=1280, soft_punish_cache=256)
    module_name, _, attribute = name.rpartition(".")
    if not module_name and name not in REWARDS:
        known = (*REWARDS, "get_soft_overlong_punishment")
        raise UserError(
            f"unknown reward function {name!r}{did_you_mean(name, known)}: use {', '.join(known)}, or the import path "
            "of your own (package.module.function)"
        )
    return import_callable(f"reward function {name!r}", module_name or REWARDS[name], attribute)
