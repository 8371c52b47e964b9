"""A training that had nothing to learn from says so at its end."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import TrainerCallback

from lambda_grpo.runs.signal import missing_signal


class WarnOfNoSignal(TrainerCallback):
    """One warning for each sentence of `missing_signal`, on the main process."""

    def on_train_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            for sentence in missing_signal(state.log_history):
                warnings.warn(sentence, stacklevel=2)
