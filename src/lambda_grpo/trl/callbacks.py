"""The callbacks of `LambdaGRPOTrainer`: λ's step, and a warning at the end of a training without a learning signal."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import TrainerCallback

from lambda_grpo.runs.learning_signal import missing_signal

LAMBDA_CHECK_STEPS = 20  # optimiser steps between two comparisons of the ranks' λ


class LambdaStep(TrainerCallback):
    """Sets λ's schedule when training begins, and steps λ right after the policy's optimiser step.

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
    """Warns at the end of a training whose rewards had no learning signal.

    One warning for each sentence of `missing_signal`, on the main process.
    """

    def on_train_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            for sentence in missing_signal(state.log_history):
                warnings.warn(sentence, stacklevel=2)
