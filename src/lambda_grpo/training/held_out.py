"""The evaluation of a run's policy on its held-out problems: before, during and after training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.evaluation import Evaluation, Sampling, evaluate
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.record import HeldOutRecord
from lambda_grpo.training.data import TrainingData
from lambda_grpo.training.recipe import Recipe
from lambda_grpo.trl import LambdaGRPOTrainer
from lambda_grpo.trl.generated_tokens import generated_tokens


class HeldOutProblems:
    """Evaluates policies of a run on its held-out problems, with the training's sampling, and records the results.

    Every evaluation samples with the same seed, and leaves random states and the model as they were.

    Args:
        recipe: the run's.
        data: its data; without held-out problems nothing is evaluated.
        run: where the main process writes.

    Raises:
        UserError: evaluations during training are asked for, and there are no held-out problems.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, run: Run):
        self.recipe, self.data, self.run = recipe, data, run
        if recipe.task.eval_every and data.held_out is None:
            raise UserError("eval_every needs held-out problems: set eval_size above 0, or eval_task")

    def evaluate(self, trainer: LambdaGRPOTrainer, name: str) -> None:
        """Write eval/NAME.json, with the policy's step and verdicts."""
        evaluation = self._evaluate(trainer)
        if evaluation is not None and trainer.is_world_process_zero():
            self.run.log_evaluation(name, {**evaluation.to_dict(), **_record(trainer, evaluation)})

    def evaluate_during(self, trainer: LambdaGRPOTrainer) -> None:
        """Append a line to eval/during.jsonl, unless it has one of this step."""
        step = trainer.policy_step
        if step in [record["step"] for record in self.run.evaluations_during()]:
            return
        evaluation = self._evaluate(trainer)
        if evaluation is not None and trainer.is_world_process_zero():
            self.run.log_evaluation_during(_record(trainer, evaluation))

    def check_weights(self, trainer: LambdaGRPOTrainer) -> None:
        """Raise UserError if evaluations during training are asked for, and the trainer's weights are sharded."""
        if self.recipe.task.eval_every and _is_sharded(trainer):
            raise UserError(
                "eval_every evaluates in the training's processes, over which FSDP and ZeRO-3 shard the weights: leave "
                "it out, and use lambda-grpo eval on the checkpoints"
            )

    def check_same(self, evaluation: Mapping[str, Any]) -> None:
        """Raise UserError unless an evaluation before training has the task, size and sampling of this run's own."""
        held_out = self.data.held_out
        if held_out is None:
            raise UserError("a run without held-out examples has no evaluation: leave `before` out, or set eval_size")
        own = {"task": held_out.name, "n": len(held_out), "sampling": asdict(self._sampling())}
        for name, value in own.items():
            if evaluation.get(name) != value:
                raise UserError(f"`before` is another evaluation: its {name} is {evaluation.get(name)}, not {value}")

    def _evaluate(self, trainer: LambdaGRPOTrainer) -> Evaluation | None:
        if self.data.held_out is None:
            return None
        if _is_sharded(trainer):
            if trainer.is_world_process_zero():
                warn_once(
                    "the weights are sharded over processes (FSDP, ZeRO-3), so there is no evaluation before and "
                    "after: use lambda-grpo eval when it has ended"
                )
            return None
        config = self.recipe.training
        with _random_states_kept():
            return evaluate(
                trainer.accelerator.unwrap_model(trainer.model),
                trainer.processing_class,
                self.data.held_out,
                self._sampling(),
                batch_size=config.per_device_eval_batch_size,
                template=replace(self.data.template, stops=(*self.data.template.stops, *config.stops())),
            )

    def _sampling(self) -> Sampling:
        """The sampling parameters of the training."""
        config = self.recipe.training
        return Sampling(
            config.max_completion_length,
            config.temperature,
            config.top_p,
            config.top_k,
            config.min_p,
            config.repetition_penalty,
        )


def _is_sharded(trainer: LambdaGRPOTrainer) -> bool:
    return bool(trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled())


def _record(trainer: LambdaGRPOTrainer, evaluation: Evaluation) -> HeldOutRecord:
    return {
        "step": trainer.policy_step,
        "num_tokens": trainer.state.num_input_tokens_seen,
        "generated_tokens": generated_tokens(trainer.state),
        "n": evaluation.n,
        "accuracy": evaluation.accuracy,
        "ci95": list(evaluation.ci95),
        "score_mean": evaluation.score_mean,
        "completion_length_mean": evaluation.completion_length_mean,
        "verdicts": evaluation.verdicts,
    }


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Restore the random states on leaving: a grader may draw, too."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):  # the engine keeps those of its device
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
