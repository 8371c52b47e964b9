"""Resuming in TRL: exactly, or not without being asked to.

TRL and the Trainer load what they find. Without the optimiser's files they go on with a fresh optimiser and the
learning rate of the first step; within a generated batch (`num_iterations` above 1, or `steps_per_generation`
above `gradient_accumulation_steps`) they generate anew. Here a checkpoint holds the batch too, and one that lacks
something is refused, unless `resume_without_optimizer` is set.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.objective import Objective
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE, NO_LAMBDA, read_state
from lambda_grpo.runs.checkpoints import OPTIMIZER, RANDOM_STATE, SCHEDULE, missing_state
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl.rollouts import ROLLOUT_STATE_FILE, RolloutTrainer

logger = logging.getLogger(__name__)

# what starts afresh without a part of a checkpoint
AFRESH = {
    OPTIMIZER: "the optimizer starts fresh",
    SCHEDULE: "the optimizer starts fresh",
    RANDOM_STATE: "sampling goes on with other random numbers",
    ROLLOUT_STATE_FILE: "fresh prompts come from the start of their order",
    "generated_batch": "completions of its generated batch are generated anew",
}


class ResumeTrainer(RolloutTrainer):
    """`trl.GRPOTrainer` whose resumed run is the uninterrupted one, also between two steps of a generated batch."""

    objective: Objective
    _generated: dict[str, GeneratedBatch]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._lacks: list[str] = []  # what the checkpoint that is resumed from lacks
        self._saved_batch: dict[str, Any] | None = None  # the generated batch that it was saved within

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. True takes the last complete checkpoint: one whose writing was cut short doesn't count.

        Raises:
            UserError: the checkpoint lacks the optimiser, the schedule, the random state, or the generated batch that
                it was saved within, and `resume_without_optimizer` isn't set; or it lacks λ.
        """
        self._lacks, self._saved_batch = [], None
        if resume_from_checkpoint is True:
            complete = Run(self.args.output_dir).checkpoints()
            resume_from_checkpoint = str(complete[-1]) if complete else True  # the Trainer says that there is none
        if isinstance(resume_from_checkpoint, str | os.PathLike) and Path(resume_from_checkpoint).is_dir():
            self._check_checkpoint(Path(resume_from_checkpoint))
        elif self.args.save_only_model and self.args.save_strategy != "no" and self.accelerator.is_main_process:
            logger.warning("save_only_model: checkpoints hold no optimizer, this run can't be resumed from them")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # -- saving ------------------------------------------------------------------------------------------------------

    @property
    def _generate_every(self) -> int:
        """How many micro-batches are trained on a generated batch."""
        return self.args.steps_per_generation * self.num_iterations

    @property
    def _batch_file(self) -> str:
        """Of this rank."""
        return f"generated_batch_{self.accelerator.process_index}.pt"

    @property
    def _batch_settings(self) -> dict[str, int]:
        """What must be the same for a saved batch to go on."""
        args = self.args
        return {
            "processes": self.accelerator.num_processes,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "steps_per_generation": args.steps_per_generation,
            "num_iterations": self.num_iterations,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
        }

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._step % self._generate_every == 0:
            return
        batch = self._generated["train"]
        saved = {
            "step": self._step,
            "settings": self._batch_settings,
            "inputs": self._buffered_inputs,
            "batch": {column.name: getattr(batch, column.name) for column in fields(batch)},
        }
        os.makedirs(output_dir, exist_ok=True)  # rank 0 may not have made it yet
        torch.save(saved, os.path.join(output_dir, self._batch_file))

    # -- what a checkpoint lacks -------------------------------------------------------------------------------------

    def _check_checkpoint(self, checkpoint: Path) -> None:
        """Take note of what a checkpoint lacks, and of its generated batch. Raises UserError as `train`."""
        if not (checkpoint / TRAINER_STATE_NAME).exists():
            raise UserError(f"{checkpoint} is no complete checkpoint: it has no {TRAINER_STATE_NAME}")
        if self.objective.preference.learnable:
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
            warn_once(f"{checkpoint} is of another number of processes: sampling goes on with other random numbers")
        if not self._lacks:
            return
        names = ", ".join(self._lacks)
        if not self.args.resume_without_optimizer:
            raise UserError(
                f"{checkpoint} can't be resumed from, it lacks {names}{self._why(self._lacks)}: "
                f"{self._instead(checkpoint)}set resume_without_optimizer to go on without, or start a new run from it "
                "as a model"
            )
        if self.accelerator.is_main_process:
            consequences = "; ".join(dict.fromkeys(_afresh(part) for part in self._lacks))
            warnings.warn(f"{checkpoint} lacks {names}: {consequences}", stacklevel=3)

    def _missing(self, checkpoint: Path) -> list[str]:
        """The files that a resumption from a checkpoint would lack."""
        missing = missing_state(checkpoint)
        if self.rollouts.dynamic_sampling and not (checkpoint / ROLLOUT_STATE_FILE).exists():
            missing.append(ROLLOUT_STATE_FILE)
        if self._micro_steps(checkpoint) % self._generate_every != 0 and not (checkpoint / self._batch_file).exists():
            missing.append(self._batch_file)
        return missing

    def _micro_steps(self, checkpoint: Path) -> int:
        """How many micro-batches had been trained on when it was saved."""
        step = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step
        _, updates_per_epoch, *_, steps_in_epoch, _ = self.set_initial_training_values(
            self.args, self.get_train_dataloader()
        )
        return (
            step // updates_per_epoch * steps_in_epoch
            + step % updates_per_epoch * self.args.gradient_accumulation_steps
        )

    def _check_batch_settings(self, checkpoint: Path, saved: dict[str, int]) -> None:
        for name, value in self._batch_settings.items():
            if saved[name] != value:
                raise UserError(
                    f"{checkpoint} was saved within a generated batch, with {name} {saved[name]}, not {value}: "
                    f"{self._instead(checkpoint)}leave {name} as it was"
                )

    def _why(self, lacks: list[str]) -> str:
        """How that may be."""
        if OPTIMIZER in lacks:
            return " (save_only_model?)"
        if ROLLOUT_STATE_FILE in lacks:
            return " (written without dynamic sampling?)"
        return ", the generated batch that it was saved within" if self._batch_file in lacks else ""

    def _instead(self, checkpoint: Path) -> str:
        """The last checkpoint beside it that can be resumed from, as advice; empty without any."""
        others = [path for path in Run(checkpoint.parent).checkpoints() if path.name != checkpoint.name]
        good = [path for path in others if not self._missing(path) and not (path / self._batch_file).exists()]
        return f"resume from {good[-1]} (remove the later ones), " if good else ""

    # -- going on ----------------------------------------------------------------------------------------------------

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if {OPTIMIZER, SCHEDULE}.intersection(self._lacks):
            set_step(self.lr_scheduler, self.optimizer, self.state.global_step)
        self._step = self._micro_steps(Path(checkpoint))
        self._buffered_inputs = None  # TRL generates where there are none
        if self._saved_batch is not None:
            self._step = self._saved_batch["step"]
            self._buffered_inputs = send_to_device(self._saved_batch["inputs"], self.accelerator.device)
            self._generated["train"] = GeneratedBatch(**self._saved_batch["batch"])
            self._saved_batch = None


def set_step(schedule: Any, optimizer: Any, step: int) -> None:
    """Let a fresh schedule go on at a step, where it is a function of the step alone."""
    if not isinstance(schedule, LambdaLR):
        return
    schedule.last_epoch = step
    schedule._last_lr = [
        rate * factor(step) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def _afresh(part: str) -> str:
    return next(text for name, text in AFRESH.items() if part.startswith(name))
