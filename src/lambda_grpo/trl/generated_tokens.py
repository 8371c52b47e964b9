"""The number of completion tokens that have been sampled for training.

TRL's own count, `num_tokens`, includes prompts. Like it this one is kept in the Trainer's state, which each checkpoint
saves and a resumption restores. A `TrainerState` takes no further fields, but entries of its `stateful_callbacks`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from lambda_grpo.errors import UserError

NAME = "generated_tokens"  # of the metric, and of the entry in the state


def generated_tokens(state: TrainerState) -> int | None:
    """The number so far, over all processes; None after a resumption from a checkpoint that doesn't hold it."""
    entry = state.stateful_callbacks.get(NAME)
    if entry is not None:
        return int(entry["attributes"]["count"])
    return 0 if state.global_step == 0 else None


def add_generated_tokens(state: TrainerState, count: int) -> None:
    """Add tokens that all processes together have sampled."""
    before = generated_tokens(state)
    if before is not None:
        state.stateful_callbacks[NAME] = {"args": {}, "attributes": {"count": before + count}}


def count_sampled(
    state: TrainerState, accelerator: Any, token_mask: Sequence[Sequence[int]], metrics: dict[str, list[Any]]
) -> None:
    """Add the tokens of all processes' completions, and log the number. Called by all processes together.

    Args:
        token_mask: of each completion of this process, 1 for a token that the policy sampled, 0 for a tool's.
        metrics: TRL's of the training.
    """
    own = torch.tensor(sum(map(sum, token_mask)), device=accelerator.device)
    add_generated_tokens(state, int(accelerator.reduce(own)))
    log_generated_tokens(state, metrics)


def log_generated_tokens(state: TrainerState, metrics: dict[str, list[Any]]) -> None:
    """Set the metric `generated_tokens` to the number so far, as TRL sets `num_tokens`."""
    count = generated_tokens(state)
    if count is not None:
        metrics[NAME] = [count]


def tokens_of(checkpoint: str | os.PathLike[str]) -> int | None:
    """The number at which a checkpoint was saved."""
    return generated_tokens(TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME))))


class TokenBudget(TrainerCallback):
    """Ends a training after the step at which so many tokens have been sampled, with what it does at max_steps.

    Args:
        budget: the number of tokens; None for no limit.
    """

    def __init__(self, budget: int | None):
        self.budget = budget

    def is_spent(self, checkpoint: Any) -> bool:
        """Whether the training that saved a checkpoint had reached the budget. Anything but a path is no checkpoint."""
        if self.budget is None or not isinstance(checkpoint, str | os.PathLike):
            return False
        return (tokens_of(checkpoint) or 0) >= self.budget

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.budget is not None and generated_tokens(state) is None:
            raise UserError(
                "max_generated_tokens: the checkpoint doesn't hold the number of tokens that had been generated, since "
                "TRL or an earlier version wrote it: leave max_generated_tokens out, or start a new run"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.budget is None or (generated_tokens(state) or 0) < self.budget:
            return
        control.should_training_stop = True
        if args.save_strategy == "steps":
            control.should_save = True
        if args.eval_strategy == "steps" and args.eval_delay <= state.global_step:
            control.should_evaluate = True
