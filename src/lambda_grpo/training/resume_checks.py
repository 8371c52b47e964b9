"""Resuming a run: the settings that must stay the same, checked before anything is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lambda_grpo.errors import UserError
from lambda_grpo.models import BUILTIN
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.recipe import Recipe
from lambda_grpo.trl.generated_tokens import tokens_of

# The settings that define a run: with another value for a part of it, its report would compare different things.
# A budget (max_resample_times, max_steps, max_generated_tokens) may grow.
FIXED_ON_RESUME = (
    "objective", "lambda_init", "lambda_optimizer", "lambda_r", "weight_norm", "scale_rewards",
    "loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "delta", "beta",
    "trace", "trace_gamma", "trace_lambda", "advantage_min",
    "dynamic_sampling", "drop_zero_variance", "overlong_buffer_length",
    "select_best_and_worst", "select_min_reward", "selection_baseline",
    "error_correction", "correct_reward", "reflection_prompt", "answer_template",
    "model_name_or_path", "model_revision", "use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
    "task", "task_size", "task_seed", "eval_task", "eval_size", "seed",
    "question_column", "answer_column", "template", "chat_template_kwargs", "check_overlap", "remove_overlap",
    "dataset_name", "dataset_config", "dataset_train_split", "datasets",
    "reward_funcs", "reward_weights", "reward_model_name_or_path",
    "max_prompt_length", "max_prompt_overflow", "stop_strings",
    "num_generations", "max_completion_length", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
)  # fmt: skip


def checkpoint_to_resume(run: Run, recipe: Recipe) -> Path:
    """The last complete checkpoint of a run.

    Raises:
        UserError: there is none, or a setting that defines the run has changed.
    """
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise UserError(f"{run.path} holds no complete checkpoint to resume from: start again in a new --output_dir")
    before, now = _settings(Recipe.parse(run.config()["recipe"])), _settings(recipe)
    for key in FIXED_ON_RESUME:
        if before[key] != now[key]:
            raise UserError(
                f"{run.path} was trained with {key} {before[key]!r}, not {now[key]!r}: {key} can't change "
                "on resume, leave it out or start another run"
            )
    step, last_step = read_trainer_state(checkpoints[-1])["global_step"], recipe.training.max_steps
    if 0 < last_step < step:
        raise UserError(f"{run.path} has already been trained for {step} steps, max_steps can't be {last_step}")
    tokens, key = tokens_of(checkpoints[-1]), "max_generated_tokens"
    if now[key] not in (None, before[key]) and tokens is not None and tokens >= now[key]:
        raise UserError(f"{run.path} has already generated {tokens} tokens, {key} can't be {now[key]}")
    return checkpoints[-1]


def read_trainer_state(checkpoint: Path) -> dict[str, Any]:
    """trainer_state.json of a checkpoint, with its `global_step`."""
    return json.loads((checkpoint / "trainer_state.json").read_text())


def set_learning_rate(optimizer: Optimizer, schedule: Any, learning_rate: float, before: float) -> None:
    """Apply the learning rate of the settings after the Trainer has restored the checkpoint's.

    Args:
        before: the run's learning rate until now.

    Raises:
        UserError: it has changed, and the schedule isn't a function of the step alone.
    """
    if not isinstance(schedule, LambdaLR):
        if learning_rate != before:
            raise UserError("learning_rate can't change on resume with this lr_scheduler_type: leave it out")
    elif set(schedule.base_lrs) != {learning_rate}:
        schedule.base_lrs = [learning_rate] * len(schedule.base_lrs)
        schedule._last_lr = [learning_rate * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        for group, value in zip(optimizer.param_groups, schedule._last_lr, strict=True):
            group["initial_lr"], group["lr"] = learning_rate, value


def _settings(recipe: Recipe) -> dict[str, Any]:
    settings = recipe.settings()
    return {**settings, "model_name_or_path": settings["model_name_or_path"] or BUILTIN}
