"""The records of a training in its output directory, besides its models: all that `lambda-grpo report` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl.trainer.utils import get_config_model_id

from lambda_grpo.errors import warn_once
from lambda_grpo.objective import Objective
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.runs.directory import Run, metrics_line
from lambda_grpo.runs.provenance import provenance
from lambda_grpo.trl.rewards import RewardTable, known, total_reward
from lambda_grpo.trl.token_records import TokenRecords, token_records

# TRL's metrics that have another name in metrics.jsonl
METRIC_NAMES = {"completions/mean_length": "completion_length_mean"}
SUMMARY = "train_runtime"  # a key that only the Trainer's closing summary has


class RunRecorder(TrainerCallback):
    """Writes run.json, metrics.jsonl and completions/ on the main process.

    A resumed training appends to the records of the one that it resumes. Records of another training in the same
    directory are moved to a subdirectory.

    Args:
        run: the output directory.
        describe: returns the content of run.json; called when training begins.
        on_samples: also called with each generated batch.
        tokens: what the training pass computes for single tokens; None to record none.
    """

    def __init__(
        self,
        run: Run,
        describe: Callable[[], Mapping[str, Any]],
        on_samples: Callable[[dict[str, list[Any]]], None] | None = None,
        tokens: TokenRecords | None = None,
    ):
        self.run, self._describe, self._on_samples, self._tokens = run, describe, on_samples, tokens
        self._step: int | None = None  # under way; None outside of training
        self._has_begun = self._is_prepared = False
        self._next_group = 0  # number of the next prompt group in completions/
        self._batch_step: int | None = None  # of the last generated batch in completions/

    def begin(self, state: Any) -> None:
        """Write run.json, and truncate the records at the step that `state` has reached.

        Called at the first step of a training, or before it by a caller that records something earlier.
        """
        rows = [_row(entry["step"], entry) for entry in state.log_history if "reward" in entry]
        known = {_as_text(row) for row in rows}
        new = [row for row in self.run.metrics() if row["step"] <= state.global_step and _as_text(row) not in known]
        # A training that ends between two logged steps logs the rest with its summary, after its last checkpoint.
        summaries = [row for row in new if SUMMARY in row]
        if state.global_step == 0 or len(summaries) < len(new):
            summaries, earlier = [], self.run.archive_records()
            if earlier is not None:
                warn_once(f"{self.run.path} holds the records of another training: they are in {earlier} now")
        self.run.rewind(state.global_step, sorted([*rows, *summaries], key=lambda row: row["step"]))
        self.run.write_config(self._describe())
        samples = self.run.completions()
        self._next_group = 0 if samples is None else max(samples["group"].to_pylist()) + 1
        self._batch_step = None if samples is None else samples["step"][-1].as_py()
        self._has_begun = self._is_prepared = True

    def record_samples(self, columns: dict[str, list[Any]]) -> None:
        """Add a generated batch, in the columns of the trainer's `on_samples`, to completions/."""
        if self._on_samples is not None:
            self._on_samples(columns)
        if self._step is None:
            return
        groups = [self._next_group + group for group in columns["group"]]
        self._next_group = groups[-1] + 1
        self._batch_step = self._step + 1
        self.run.log_completions(self._batch_step, {**columns, "group": groups})

    def observe(self, batch: GeneratedBatch, inputs: dict[str, Any], logps: Tensor, entropies: Tensor) -> None:
        """Take a micro-batch's values of single tokens, as `TokenRecords.observe`."""
        if self._tokens is not None:
            self._tokens.observe(batch, inputs, logps, entropies)

    def record_tokens(self) -> None:
        """Add what was observed to the samples of the last generated batch. Called by all processes together."""
        if self._tokens is None or not self._tokens.has_values:
            return
        values = self._tokens.collect()
        if self._step is not None and self._batch_step is not None:
            rows = [values.get(index, {}) for index in range(self._tokens.batch_size)]
            columns = {name: [row.get(name) for row in rows] for name in self._tokens.names}
            self.run.log_tokens(self._batch_step, columns)

    def record_model(self, step: int) -> None:
        """Record that the policy of this step has been saved into the output directory itself."""
        if self._has_begun:  # else the records are another training's
            self.run.log_model(step)

    # -- the Trainer's hooks -----------------------------------------------------------------------------------------

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._step = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        # Not when training begins: if another callback refuses then, the existing records must not be touched.
        if self._step is None and not self._is_prepared:
            self.begin(state)
        self._step, self._is_prepared = state.global_step, False

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.record_tokens()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        # An evaluation has no reward, nor has the closing summary where all steps have been logged before it.
        if self._step is not None and logs is not None and "reward" in logs:
            self.run.log_metrics(_row(state.global_step, logs))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._step = None


def describe_run(
    trainer: Any, objective: Objective, details: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The content of run.json: the objective, the model, the data, settings, versions, and the time of the start.

    Args:
        trainer: of TRL.
        objective: its objective.
        details: further entries; those of "resolved" are added to the settings.
    """
    found = {
        "started": datetime.now(UTC).isoformat(),
        "objective": objective.describe(),
        "model": get_config_model_id(trainer.model.config),
        "data": {"name": getattr(getattr(trainer.train_dataset, "info", None), "dataset_name", None)},
        **details,
        **provenance(),
    }
    return {**found, "resolved": {"training": trainer.args.to_dict(), **details.get("resolved", {})}}


def sample_columns(
    batch: GeneratedBatch, weights: list[float], answers: list[Any], logs: Mapping[str, Any], table: RewardTable
) -> dict[str, list[Any]]:
    """A generated batch in the columns of the trainer's `on_samples`.

    Args:
        batch: of N samples.
        weights: (N,) the mean of f over each sample's tokens.
        answers: (N,) the data set's; None for an example without one.
        logs: TRL's table of completions, whose last N rows are the batch's.
        table: the sum of rewards.
    """
    count = len(batch.lengths)
    each = {name: list(logs["rewards"][name])[-count:] for name in table.names}
    rewards = torch.tensor(list(each.values()), dtype=torch.float64)
    reward = total_reward(rewards.T * table.weights.cpu().double())
    return {
        "prompt": [_text(prompt) for prompt in list(logs["prompt"])[-count:]],
        "completion": [_text(completion) for completion in list(logs["completion"])[-count:]],
        "answer": [None if answer is None else str(answer) for answer in answers],
        "reward": known(reward.tolist()),
        **{f"reward/{name}": known(values) for name, values in each.items()},
        "advantage": batch.advantages.tolist(),
        "length": [int(length) for length in batch.lengths.tolist()],
        "weight": weights,
        "group": batch.group_ids.tolist(),
    }


def _text(value: Any) -> str:
    """A prompt or completion as text; conversations as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _row(step: int, logs: Mapping[str, Any]) -> dict[str, Any]:
    """A logged step; `lambda` is null for an objective without λ, so that every run has the same columns."""
    named = {METRIC_NAMES.get(key, key): value for key, value in logs.items()}
    return {"step": step, "lambda": None, "lambda_grad": None, **named}


def _as_text(row: Mapping[str, Any]) -> str:
    """A row as text, for comparison: equal for equal values."""
    return metrics_line(dict(sorted(row.items())))


def recorder_of(trainer: Any, on_samples: Callable[[dict[str, list[Any]]], None] | None) -> RunRecorder:
    """The recorder of a `LambdaGRPOTrainer`.

    trainer: its `run_details`, when training begins, are further entries of run.json.
    """
    tokens = token_records(trainer, trainer.objective, trainer.fold.weights, trainer.args.record_tokens)

    def described() -> dict[str, Any]:
        return describe_run(trainer, trainer.objective, trainer.run_details)

    return RunRecorder(Run(trainer.run_directory), described, on_samples, tokens)
