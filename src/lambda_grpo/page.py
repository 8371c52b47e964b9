"""One line that gives a training script with TRL's own trainer the run directory and the page."""

from __future__ import annotations

from typing import Any

from lambda_grpo.report.run_page import write_report
from lambda_grpo.trl.stock import StockRecorder


class RunPage(StockRecorder):
    """A callback that writes a run's records into `output_dir`, and report.html at the end of the training.

        trainer = trl.GRPOTrainer(...)
        trainer.add_callback(RunPage(trainer))

    It takes the trainer, since callbacks aren't told which trainer calls them. The training is the same with it; see
    `StockRecorder` for the arguments and what is recorded. `lambda-grpo report DIR` writes the page earlier.
    """

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        has_steps = self._step is not None  # on the main process
        super().on_train_end()
        if has_steps:
            write_report(self.run)
