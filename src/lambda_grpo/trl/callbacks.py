"""What `LambdaGRPOTrainer` does at the Trainer's own hooks: λ's step, and a warning at the end."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import TrainerCallback

from lambda_grpo.runs.signal import missing_signal

LAMBDA_CHECK_STEPS = 20  # how many optimiser steps lie between two comparisons of the ranks' λ


class LambdaStep(TrainerCallback):
    """The Trainer's hooks: where the number of steps is known, and on both sides of the optimiser's step.

    Args:
        trainer: a `LambdaGRPOTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        self.trainer.loaded_step = None
        self.first_step = state.global_step  # of this training: another one after a resumption
        self.trainer.lambda_state.schedule = self.trainer.args.lambda_schedule(state.max_steps)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._measure_lambda()

    def on_optimizer_step(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        self.trainer._step_lambda()
        if (state.global_step - self.first_step) % LAMBDA_CHECK_STEPS == 0:
            self.trainer.fold.check_ranks(state.global_step + 1)


class WarnOfNoSignal(TrainerCallback):
    """Says at the end of a training that there was nothing to learn from.

    One warning for each sentence of `missing_signal`, on the main process.
    """

    def on_train_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            for sentence in missing_signal(state.log_history):
                warnings.warn(sentence, stacklevel=2)
