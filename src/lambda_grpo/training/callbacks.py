"""The progress bar of a training, and callbacks at its beginning and every few steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback


class AtTrainBegin(TrainerCallback):
    """Calls a function with the step at which training begins."""

    def __init__(self, function: Callable[[int], None]):
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.function(state.global_step)


class EverySteps(TrainerCallback):
    """Calls a function after every so many optimiser steps, but not after the last one.

    A training that resumes after such a step begins with a call: there the earlier training may have ended.
    """

    def __init__(self, every: int, function: Callable[[], None]):
        self.every, self.function = every, function
        self._has_begun = False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._has_begun = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._has_begun and state.global_step > 0 and state.global_step % self.every == 0:
            self.function()
        self._has_begun = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0 and not control.should_training_stop:
            self.function()


REINFORCEMENT = (("reward", "reward", ".3f"), ("length", "completions/mean_length", ".1f"), ("λ", "lambda", "+.4f"))
SUPERVISED = (("loss", "loss", ".3f"), ("accuracy of tokens", "mean_token_accuracy", ".3f"))


class ProgressBar(TrainerCallback):
    """Shows the step, some of the logged values and the remaining time.

    Args:
        shown: label, key and format of each value. Logs without the first one are those of an evaluation, or the end's.
    """

    bar: Any = None

    def __init__(self, shown: Sequence[tuple[str, str, str]] = REINFORCEMENT):
        self.shown = shown

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
        if logs is None or self.shown[0][1] not in logs or not state.is_world_process_zero:
            return
        # a reward is None if no sample could be scored
        values = [(label, logs.get(key), spec) for label, key, spec in self.shown]
        self.bar.set_postfix({label: format(value, spec) for label, value, spec in values if value is not None})

    def on_train_end(self, *args: Any, **_: Any) -> None:
        self.close()
