"""The records of a training by TRL's own `GRPOTrainer`, which isn't changed by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOTrainer

from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl.advantages import equal_groups
from lambda_grpo.trl.args import lambda_config
from lambda_grpo.trl.fold import Fold
from lambda_grpo.trl.gather import gather_batch
from lambda_grpo.trl.generated_tokens import count_sampled
from lambda_grpo.trl.hooks import check_hooks
from lambda_grpo.trl.losses import trl_loss
from lambda_grpo.trl.recorder import RunRecorder, describe_run, sample_columns
from lambda_grpo.trl.rewards import RewardTable, distinct_names
from lambda_grpo.trl.token_records import token_records
from lambda_grpo.trl.trainer import LambdaGRPOTrainer

# Private attributes of TRL's trainer that are read; its methods are checked by `check_hooks`
ATTRIBUTES = ("_logs", "_metrics", "_tokenizer", "reward_func_names", "reward_weights", "multi_objective_aggregation")


class StockRecorder(RunRecorder):
    """Writes the run directory of a `trl.GRPOTrainer`, as `LambdaGRPOTrainer` does of its own.

    The weights are those of the objective that `loss_type` names. Four methods of this trainer object are wrapped, to
    read what passes through them: `_generate`, `_calculate_rewards`, `_generate_and_score_completions` and
    `_compute_loss`, and the log-probabilities and entropies that the last one computes.

    Args:
        trainer: TRL's, or a subclass with one of its losses.
        record_tokens: as in `LambdaGRPOConfig`, whose default it has.

    Raises:
        UserError: it isn't such a trainer, or TRL's trainer isn't the known one.
    """

    def __init__(self, trainer: Any, record_tokens: int | None = None):
        if isinstance(trainer, LambdaGRPOTrainer):
            raise UserError("LambdaGRPOTrainer writes its run directory by itself: leave the callback out")
        if not isinstance(trainer, GRPOTrainer):
            raise UserError(f"the records are of a trl.GRPOTrainer, got {type(trainer).__name__}")
        check_hooks(type(trainer))
        if missing := [name for name in ATTRIBUTES if not hasattr(trainer, name)]:
            raise UserError(f"trl {version('trl')} has no GRPOTrainer.{missing[0]}, which is read: install trl 1.16.0")
        config = lambda_config(trainer.args, trainer.model)
        self.trainer, self.objective = trainer, config.resolve_objective()
        self.fold = Fold(
            self.objective,
            trl_loss(self.objective),
            config.make_lambda_state(trainer.num_generations),
            trainer.accelerator,
            steps_per_generation=trainer.args.steps_per_generation,
            max_completion_length=trainer.max_completion_length,
        )
        trainer.reward_func_names = distinct_names(trainer.reward_func_names)  # of two alike TRL's table has one
        self.table = RewardTable(trainer.reward_func_names, trainer.reward_weights)
        limit = config.record_tokens if record_tokens is None else record_tokens
        tokens = token_records(trainer, self.objective, self.fold.weights, limit)
        super().__init__(
            Run(Path(trainer.args.output_dir)), lambda: describe_run(trainer, self.objective), tokens=tokens
        )
        self._token_mask: list[list[int]] = []
        self._rewards = self._logps = self._entropies = torch.empty(0)
        self._wrap("_generate", self._note_token_mask)
        self._wrap("_calculate_rewards", self._note_rewards)
        self._wrap("_generate_and_score_completions", self._record_batch)
        self._wrap("_get_per_token_logps_and_entropies", self._note_values)
        self._wrap("_compute_loss", self._observe)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.fold.measure(self.trainer._metrics["train"])

    def _wrap(self, name: str, see: Callable[..., None]) -> None:
        """Have a method of the trainer also pass its arguments and its result on, while it trains."""
        method = getattr(self.trainer, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if self.trainer.model.training:
                see(result, *args)
            return result

        setattr(self.trainer, name, wrapped)

    def _note_token_mask(self, generated: Any, *_: Any) -> None:
        ids, tool_mask = generated[1:3]
        self._token_mask = [[1] * len(one) for one in ids] if tool_mask is None else tool_mask

    def _note_rewards(self, rewards: Tensor, *_: Any) -> None:
        self._rewards = rewards

    def _note_values(self, values: Any, *_: Any) -> None:
        logps, entropies = values[:2]
        if entropies is not None:  # a training pass
            self._logps, self._entropies = logps.detach(), entropies.detach()

    def _record_batch(self, output: dict[str, Any], examples: list[dict[str, Any]]) -> None:
        trainer, size = self.trainer, self.trainer.num_generations
        count_sampled(trainer.state, trainer.accelerator, self._token_mask, trainer._metrics["train"])
        local = len(self._token_mask)
        output["sample_index"] = torch.arange(local) + trainer.accelerator.process_index * local
        batch = gather_batch(
            trainer.accelerator, output, self._token_mask, size, self.objective.preference.needs, self._no_entropies
        )
        # TRL leaves a rounding error where all rewards are equal
        found = equal_groups(self._rewards, self.table.weights, size, trainer.multi_objective_aggregation)
        counted = self.fold.begin("train", replace(batch, advantages=batch.advantages * found.differs))
        answers = gather_object([example.get("answer") for example in examples])
        self.record_tokens()  # of the batch before
        if trainer.accelerator.is_main_process:
            weights = counted.mean_weights(self.fold.weights(counted)).tolist()
            self.record_samples(sample_columns(batch, weights, answers, trainer._logs, self.table))

    def _observe(self, loss: Any, model: Any, inputs: dict[str, Any]) -> None:
        self.observe(self.fold.batches["train"], inputs, self._logps, self._entropies)

    def _no_entropies(self, *_: Any) -> Tensor:
        raise AssertionError("none of TRL's losses weighs responses by entropies")
