"""The progress bar of `lambda-grpo train`, and a callback at the beginning of training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback


class AtTrainBegin(TrainerCallback):
    """Calls a function with the step at which training begins."""

    def __init__(self, function: Callable[[int], None]):
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.function(state.global_step)


class ProgressBar(TrainerCallback):
    """Shows step, reward, length, λ and the remaining time."""

    bar: Any = None

    def close(self) -> None:
        """Close the bar, also after an error."""
        if self.bar is not None:
            self.bar.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", file=sys.stderr
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "reward" not in logs or not state.is_world_process_zero:
            return
        shown = (
            ("reward", logs["reward"], ".3f"),  # None if no sample could be scored
            ("length", logs.get("completions/mean_length"), ".1f"),
            ("λ", logs.get("lambda"), "+.4f"),
        )
        self.bar.set_postfix({name: format(value, spec) for name, value, spec in shown if value is not None})

    def on_train_end(self, *args: Any, **_: Any) -> None:
        self.close()
