"""Exact resuming in TRL; an incomplete checkpoint is refused unless `resume_without_optimizer` is set.

TRL and the Trainer silently load whatever is there. Without the optimiser's files they start with a fresh optimiser and
the learning rate of the first step; within a generated batch (`num_iterations` above 1, or `steps_per_generation`
above `gradient_accumulation_steps`) they generate a new one. Here a checkpoint includes the generated batch.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE, NO_LAMBDA, read_state
from lambda_grpo.runs.checkpoints import OPTIMIZER, RANDOM_STATE, SCHEDULE, is_complete, missing_state
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl.fresh_prompts import ROLLOUT_STATE_FILE

logger = logging.getLogger(__name__)

# the consequence of resuming without a part of a checkpoint
CONSEQUENCES = {
    OPTIMIZER: "the optimizer starts fresh",
    SCHEDULE: "the optimizer starts fresh",
    RANDOM_STATE: "sampling continues with other random numbers",
    ROLLOUT_STATE_FILE: "fresh prompts come from the start of their order",
    "generated_batch": "completions of its generated batch are generated again",
}


class SavedBatch(NamedTuple):
    """The generated batch of a checkpoint that was saved before all of it had been trained on.

    step: number of micro-batches that had been trained on.
    inputs: TRL's micro-batches.
    batch: the batch of stage 1.
    """

    step: int
    inputs: list[dict[str, Any]]
    batch: GeneratedBatch


class Resumption:
    """Saves and restores what a checkpoint needs besides the Trainer's own files, so that resuming is exact.

    Args:
        args: the configuration.
        num_iterations: optimiser passes over a generated batch.
        is_learnable: whether the objective has a λ.
        draws_fresh_prompts: whether the run uses dynamic sampling.
        epoch_steps: returns the optimiser steps and the micro-batches of an epoch; called only with a checkpoint.
    """

    def __init__(
        self,
        args: Any,
        accelerator: Any,
        *,
        num_iterations: int,
        is_learnable: bool,
        draws_fresh_prompts: bool,
        epoch_steps: Callable[[], tuple[int, int]],
    ):
        self.args, self.accelerator, self._epoch_steps = args, accelerator, epoch_steps
        self.is_learnable, self.draws_fresh_prompts = is_learnable, draws_fresh_prompts
        self.num_iterations = num_iterations
        self._lacks: list[str] = []  # parts that the checkpoint lacks
        self._saved_batch: dict[str, Any] | None = None  # the checkpoint's generated batch

    def begin(self, resume_from_checkpoint: str | bool | None) -> Any:
        """Check the checkpoint that a training is to resume from, and return the Trainer's `resume_from_checkpoint`.

        True selects the last complete checkpoint; one that was only partly written doesn't count.

        Raises:
            UserError: the checkpoint lacks the optimiser, the schedule, the random state, or the generated batch that
                it was saved within, and `resume_without_optimizer` isn't set; or it lacks λ.
        """
        self._lacks, self._saved_batch = [], None
        if resume_from_checkpoint is True:
            complete = Run(self.args.output_dir).checkpoints()
            resume_from_checkpoint = str(complete[-1]) if complete else True  # the Trainer says that there is none
        if isinstance(resume_from_checkpoint, str | os.PathLike) and Path(resume_from_checkpoint).is_dir():
            self._check(Path(resume_from_checkpoint))
        elif self.args.save_only_model and self.args.save_strategy != "no" and self.accelerator.is_main_process:
            logger.warning("save_only_model: checkpoints hold no optimizer, this run can't be resumed from them")
        return resume_from_checkpoint

    # -- saving ------------------------------------------------------------------------------------------------------

    @property
    def _generate_every(self) -> int:
        """Number of micro-batches that a generated batch is trained on for."""
        return self.args.steps_per_generation * self.num_iterations

    @property
    def _batch_file(self) -> str:
        """The file name of this rank's generated batch."""
        return f"generated_batch_{self.accelerator.process_index}.pt"

    @property
    def _batch_settings(self) -> dict[str, int]:
        """The settings that must be the same to resume within a saved batch."""
        args = self.args
        return {
            "processes": self.accelerator.num_processes,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "steps_per_generation": args.steps_per_generation,
            "num_iterations": self.num_iterations,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
        }

    def save_batch(self, output_dir: str, step: int, inputs: Any, batches: dict[str, GeneratedBatch]) -> None:
        """Save the generated batch into a checkpoint, unless all of it has been trained on.

        Args:
            output_dir: the checkpoint.
            step: number of micro-batches that have been trained on.
            inputs: TRL's micro-batches.
            batches: the batches of stage 1, of which "train" is saved.
        """
        if step % self._generate_every == 0:
            return
        batch = batches["train"]
        saved = {
            "step": step,
            "settings": self._batch_settings,
            "inputs": inputs,
            "batch": {column.name: getattr(batch, column.name) for column in fields(batch)},
        }
        os.makedirs(output_dir, exist_ok=True)  # rank 0 may not have created it yet
        torch.save(saved, os.path.join(output_dir, self._batch_file))

    # -- what a checkpoint lacks -------------------------------------------------------------------------------------

    def _check(self, checkpoint: Path) -> None:
        """Find the parts that a checkpoint lacks, and load its generated batch. Raises UserError as `begin`."""
        if not (checkpoint / TRAINER_STATE_NAME).exists():
            raise UserError(f"{checkpoint} is no complete checkpoint: it has no {TRAINER_STATE_NAME}")
        if self.is_learnable:
            try:
                read_state(checkpoint, LAMBDA_STATE_FILE, NO_LAMBDA)
            except FileNotFoundError as error:
                raise UserError(str(error)) from error
        path = checkpoint / self._batch_file
        if path.exists():
            self._saved_batch = torch.load(path, map_location="cpu", weights_only=True)
            self._check_batch_settings(checkpoint, self._saved_batch["settings"])
        if self.args.sync_ref_model:
            warn_once("sync_ref_model: checkpoints hold no reference model, it is the initial one again")
        own = "rng_state.pth" if self.args.world_size <= 1 else f"rng_state_{self.args.process_index}.pth"
        self._lacks = self._missing(checkpoint)
        if RANDOM_STATE not in self._lacks and not (checkpoint / own).exists():
            warn_once(f"{checkpoint} is of another number of processes: {CONSEQUENCES[RANDOM_STATE]}")
        if not self._lacks:
            return
        names = ", ".join(self._lacks)
        if not self.args.resume_without_optimizer:
            raise UserError(
                f"{checkpoint} can't be resumed from, it lacks {names}{self._why(self._lacks)}: "
                f"{self._instead(checkpoint)}set resume_without_optimizer to resume without, or start a new run from "
                "it as a model"
            )
        if self.accelerator.is_main_process:
            consequences = "; ".join(dict.fromkeys(_consequence(part) for part in self._lacks))
            warnings.warn(f"{checkpoint} lacks {names}: {consequences}", stacklevel=4)

    def _missing(self, checkpoint: Path) -> list[str]:
        """The files for an exact resume that a checkpoint lacks."""
        missing = missing_state(checkpoint)
        if self.draws_fresh_prompts and not (checkpoint / ROLLOUT_STATE_FILE).exists():
            missing.append(ROLLOUT_STATE_FILE)
        if self.micro_steps(checkpoint) % self._generate_every != 0 and not (checkpoint / self._batch_file).exists():
            missing.append(self._batch_file)
        return missing

    def micro_steps(self, checkpoint: Path) -> int:
        """The number of micro-batches that had been trained on when a checkpoint was saved."""
        step = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step
        updates, micro_batches = self._epoch_steps()
        return step // updates * micro_batches + step % updates * self.args.gradient_accumulation_steps

    def _check_batch_settings(self, checkpoint: Path, saved: dict[str, int]) -> None:
        for name, value in self._batch_settings.items():
            if saved[name] != value:
                raise UserError(
                    f"{checkpoint} was saved within a generated batch, with {name} {saved[name]}, not {value}: "
                    f"{self._instead(checkpoint)}leave {name} as it was"
                )

    def _why(self, lacks: list[str]) -> str:
        """The likely reason, in parentheses."""
        if OPTIMIZER in lacks:
            return " (save_only_model?)"
        if ROLLOUT_STATE_FILE in lacks:
            return " (written without dynamic sampling?)"
        return ", the generated batch that it was saved within" if self._batch_file in lacks else ""

    def _instead(self, checkpoint: Path) -> str:
        """Advice to use the run's last checkpoint that can be resumed from; empty if there is none."""
        others = [path for path in Run(checkpoint.parent).checkpoints() if path.name != checkpoint.name]
        good = [path for path in others if not self._missing(path) and not (path / self._batch_file).exists()]
        return f"resume from {good[-1]} (remove the later ones), " if good else ""

    # -- resuming ----------------------------------------------------------------------------------------------------

    def continue_schedule(self, schedule: Any, optimizer: Any, step: int) -> None:
        """Start a fresh optimiser's schedule at the step of the checkpoint."""
        if {OPTIMIZER, SCHEDULE}.intersection(self._lacks):
            set_step(schedule, optimizer, step)

    def take_batch(self) -> SavedBatch | None:
        """The checkpoint's generated batch, at the first call; None if the checkpoint was saved between two batches."""
        saved, self._saved_batch = self._saved_batch, None
        if saved is None:
            return None
        inputs = send_to_device(saved["inputs"], self.accelerator.device)
        return SavedBatch(saved["step"], inputs, GeneratedBatch(**saved["batch"]))


def load_ended(trainer: Any, checkpoint: Path) -> None:
    """Load state, policy and λ of a training that ended at a checkpoint into a trainer, and continue its records.

    With `load_best_model_at_end` policy and λ are those of the best checkpoint.
    """
    trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    trainer.state.is_world_process_zero = trainer.is_world_process_zero()
    best = checkpoint.with_name(f"checkpoint-{trainer.state.best_global_step}")
    policy = best if trainer.args.load_best_model_at_end and is_complete(best) else checkpoint
    trainer._load_from_checkpoint(str(policy))
    trainer._load_lambda(str(policy))
    trainer.loaded_step = int(policy.name.removeprefix("checkpoint-"))
    if trainer.recorder is not None and trainer.is_world_process_zero():
        trainer.recorder.begin(trainer.state)


def set_step(schedule: Any, optimizer: Any, step: int) -> None:
    """Start a fresh schedule at a step, if it is a function of the step alone."""
    if not isinstance(schedule, LambdaLR):
        return
    schedule.last_epoch = step
    schedule._last_lr = [
        rate * factor(step) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def _consequence(part: str) -> str:
    return next(text for name, text in CONSEQUENCES.items() if part.startswith(name))
