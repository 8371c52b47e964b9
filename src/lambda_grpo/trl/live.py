"""The weights of the last generated batch as a histogram, in the metric loggers that have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

HISTOGRAM = "train/weights"  # beside transformers' own names, such as train/lambda


def _to_tensorboard(logger: Any, values: Any, step: int) -> None:
    logger.tb_writer.add_histogram(HISTOGRAM, values, step)


def _to_wandb(logger: Any, values: Any, step: int) -> None:
    # transformers makes global_step the axis of every metric
    logger._wandb.log({HISTOGRAM: logger._wandb.Histogram(values), "train/global_step": step})


def _to_trackio(logger: Any, values: Any, step: int) -> None:
    # with a step: without one Trackio would count this as another one
    logger._trackio.log({HISTOGRAM: logger._trackio.Histogram(values), "train/global_step": step}, step=step)


# Those that `report_to` names. MLflow, for one, has no histograms.
HISTOGRAMS: dict[type, Callable[[Any, Any, int], None]] = {
    TensorBoardCallback: _to_tensorboard,
    WandbCallback: _to_wandb,
    TrackioCallback: _to_trackio,
}


class LogWeights(TrainerCallback):
    """Logs a histogram of f at each logged step, with one value for each response or, where f differs, each token.

    Args:
        trainer: a `LambdaGRPOTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "reward" not in logs or not state.is_world_process_zero:
            return  # an evaluation, or the closing summary
        found = [
            (write, logger)
            for kind, write in HISTOGRAMS.items()
            for logger in self.trainer.callback_handler.callbacks
            if isinstance(logger, kind)
        ]
        values = self.trainer.fold.measured_weights.numpy()
        if len(values) > 0:  # not all samples were filtered out
            for write, logger in found:
                write(logger, values, state.global_step)
