"""λ-GRPO and its family in TRL: a thin subclass of `trl.GRPOTrainer` that copies no loss code.

A token preference folds into the advantages, f · min(ρA, clip(ρ)A) = min(ρ · fA, clip(ρ) · fA) for f > 0, so TRL's
own loss stays as it is. Three things are added around it:

1. whole groups, where TRL still has them: lengths and advantages of the generated batch, over all ranks; each sample
   takes its row number along, through TRL's shuffling and splitting;
2. at the loss, f from that batch and the present λ, times the advantages;
3. at the optimiser step, the gradient that reached λ, averaged over ranks as the policy's is, to λ's own optimiser.

A surrogate that none of TRL's losses has (GMPO's, FSPO's, one of your own) takes `policy_loss` instead: TRL's loss then
gets advantages of 0 and brings the rest, from the KL term to the metrics.

λ lives outside the model: in the Trainer's optimiser its gradient would never be zeroed, and inside the model DDP
and FSDP2 fail on it and it would be sent to vLLM.
"""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback
from trl.models.utils import disable_gradient_checkpointing

from lambda_grpo.objective import policy_loss
from lambda_grpo.objective.batch import GeneratedBatch, lambda_metrics
from lambda_grpo.objective.settings import saturation_warning
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl.args import config_for_trl, lambda_config, restore
from lambda_grpo.trl.checkpoints import CheckpointTrainer
from lambda_grpo.trl.config import LambdaGRPOConfig
from lambda_grpo.trl.hooks import check_hooks
from lambda_grpo.trl.losses import check_nothing_weighs_tokens, trl_loss
from lambda_grpo.trl.records import RunRecorder, describe_run
from lambda_grpo.trl.rewards import known, total_reward
from lambda_grpo.trl.signal import WarnOfNoSignal
from trl import GRPOTrainer

LAMBDA_CHECK_STEPS = 20  # how many optimiser steps lie between two comparisons of the ranks' λ

check_hooks(GRPOTrainer)


class LambdaGRPOTrainer(CheckpointTrainer):
    """`trl.GRPOTrainer` with any objective of the family, λ learned beside the policy where it has one.

    Takes all of `GRPOTrainer`'s arguments; without `args`, or with a plain `trl.GRPOConfig`, it trains as TRL would.
    Beside TRL's metrics it logs `lambda`, `lambda_grad`, `weight_min`, `weight_max`, `effective_sample_size` (of a
    group, the mean over groups) and `informative_groups` (the share of groups with an advantage other than 0); these
    are over the whole generated batch, and with `logging_steps` above 1 means over the steps, as TRL's are. An
    objective with several λ logs their mean, and each as `lambda/1` …. λ is saved with each checkpoint and model in
    `lambda_state.json`, and resumed from there. When the softmax saturates, one warning says so; at the end of a
    training whose rewards gave it nothing to learn from, another one does.

    Reward functions of one name are numbered (`length_1`, `length_2`) in metrics and records.

    The output directory is a run directory, of which `lambda-grpo report` makes a page: `save_run_records` writes
    run.json, metrics.jsonl and completions/ there.

    Args:
        on_samples: called on the main process with each generated batch, as columns: prompt, completion, answer
            (None where the data set has no such column), reward (the weighted sum; None where it could not be scored),
            `reward/NAME` (what the reward function of that name gave), advantage, length, weight, and group, counted
            from 0 in each batch.
    """

    args: LambdaGRPOConfig

    def __init__(
        self,
        *args: Any,
        on_samples: Callable[[dict[str, list[Any]]], None] | None = None,
        **kwargs: Any,
    ):
        signature = inspect.signature(GRPOTrainer.__init__).bind(self, *args, **kwargs)
        given = signature.arguments.get("args")
        config = lambda_config(given, signature.arguments["model"])
        self.objective = config.resolve_objective()
        self.trl_loss = trl_loss(self.objective)
        if not self.trl_loss.has_surrogate:
            check_nothing_weighs_tokens(config, self.objective.name)
        self.lambda_state = config.make_lambda_state(config.num_generations)
        self._lambda: Tensor = self._fresh_lambda()
        self._lambda_grad = torch.zeros_like(self._lambda)
        self._generated: dict[str, GeneratedBatch] = {}  # by "train" and "eval"
        self._per_token_logps = torch.empty(0)
        self._has_warned = False
        self._on_samples = on_samples

        host = config_for_trl(config, self.trl_loss)
        signature.arguments["args"] = host
        super().__init__(self.objective.rollouts, *signature.args[1:], **signature.kwargs)
        restore(self.args, config, given)
        if self.is_deepspeed_enabled and host.fp16 and self.objective.preference.learnable:
            raise ValueError("DeepSpeed's fp16 scales the loss where λ's gradient can't be unscaled: use bf16")
        self.add_callback(_LambdaStep(self))
        self.add_callback(WarnOfNoSignal())
        if config.save_run_records:
            self.recorder = RunRecorder(Run(self.run_directory), lambda: describe_run(self), on_samples)
            self.add_callback(self.recorder)
            self._on_samples = self.recorder.record_samples

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _micro_batches(self) -> int:
        """How many make an optimiser step."""
        return self.current_gradient_accumulation_steps if self._mode == "train" else 1

    # -- 1. whole groups ---------------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> Any:
        output = super()._generate(prompts)
        completion_ids, tool_mask = output[1], output[2]
        # Before padding, and before truncation masking empties the mask. A tool's output isn't the policy's.
        self._token_mask = [[1] * len(ids) for ids in completion_ids] if tool_mask is None else tool_mask
        return output

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.objective.advantage_min is not None:
            output["advantages"] = output["advantages"].clamp(min=self.objective.advantage_min)
        output["has_no_advantage"] = output["advantages"] == 0  # (B,)
        batch = self._gather_batch(output)
        if not self.objective.preference.learnable:  # once for all micro-batches
            batch = replace(batch, fixed_weights=batch.weights(self.objective, self._lambda))
        self._generated[self._mode] = batch
        local = len(self._token_mask)
        output["row"] = torch.arange(local) + self.accelerator.process_index * local  # (B,) into that batch
        if self._on_samples is not None and self.model.training:
            self._report_samples(batch)
        return output

    def _gather_batch(self, output: dict[str, Any]) -> GeneratedBatch:
        """Stage 1's input over all ranks: a group may straddle them."""
        advantages = output["advantages"].float()
        is_kept = output.pop("is_kept", torch.ones_like(advantages))
        lengths = torch.tensor([sum(mask) for mask in self._token_mask], device=advantages.device).float()
        columns = self.accelerator.gather(torch.stack([lengths, advantages, is_kept.float()], 1)).cpu()
        group_size = self.num_generations if self.model.training else self.num_generations_eval
        tokens = {}
        if {"entropies", "completion_ids"}.intersection(self.objective.preference.needs):
            width = output["completion_ids"].size(1)
            tokens["token_mask"] = torch.tensor([[*mask, *[0] * (width - len(mask))] for mask in self._token_mask])
        if "completion_ids" in self.objective.preference.needs:
            tokens["completion_ids"] = output["completion_ids"]
        if "entropies" in self.objective.preference.needs:
            tokens["entropies"] = self._entropies(output)
        return GeneratedBatch(
            columns[:, 0],
            torch.arange(len(columns)) // group_size,
            columns[:, 1],
            columns[:, 2].bool(),
            **{name: self._gather_tokens(value) for name, value in tokens.items()},
        )

    def _gather_tokens(self, values: Tensor) -> Tensor:
        """(B, T) of this rank -> (N, T) of all."""
        values = self.accelerator.pad_across_processes(values.to(self.accelerator.device), dim=1)
        return self.accelerator.gather(values).cpu()

    @torch.no_grad()
    def _entropies(self, output: dict[str, Any]) -> Tensor:
        """(B, T) of the policy that sampled, also for completions that truncation masking hides."""
        known = output.get("known_entropies")
        if known is not None and not known.isnan().any():
            return known
        completion_ids = output["completion_ids"]
        lengths = torch.tensor([len(mask) for mask in self._token_mask], device=completion_ids.device)
        mask = torch.arange(completion_ids.size(1), device=lengths.device) < lengths[:, None]
        training = self.model.training
        rows = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], completion_ids], 1),
                torch.cat([output["prompt_mask"], mask.to(output["prompt_mask"])], 1),
                completion_ids.size(1),
                batch_size=rows,
                compute_entropy=True,
            )[1]

    def _weights(self, batch: GeneratedBatch) -> Tensor:
        """(N,) or (N, T) f of the whole batch at the present λ."""
        fixed = batch.fixed_weights
        return batch.weights(self.objective, self._lambda) if fixed is None else fixed

    def _report_samples(self, batch: GeneratedBatch) -> None:
        answers = gather_object([example.get("answer") for example in self.examples])
        if not self.accelerator.is_main_process or self._on_samples is None:
            return
        count = len(batch.lengths)
        each = {name: list(self._logs["rewards"][name])[-count:] for name in self.reward_func_names}
        rewards = torch.tensor(list(each.values()), dtype=torch.float64)
        reward = total_reward(rewards.T * self.reward_weights.cpu().double())
        self._on_samples(
            {
                "prompt": [_text(prompt) for prompt in list(self._logs["prompt"])[-count:]],
                "completion": [_text(completion) for completion in list(self._logs["completion"])[-count:]],
                "answer": [None if answer is None else str(answer) for answer in answers],
                "reward": known(reward.tolist()),
                **{f"reward/{name}": known(values) for name, values in each.items()},
                "advantage": batch.advantages.tolist(),
                "length": [int(length) for length in batch.lengths.tolist()],
                "weight": batch.mean_weights(self._weights(batch)).tolist(),
                "group": batch.group_ids.tolist(),
            }
        )

    # -- 2. the fold -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        advantages, mask = inputs["advantages"], inputs["completion_mask"]
        row = inputs["row"].cpu()
        batch = self._generated[self._mode]
        share = max(int(batch.is_kept.sum()), 1) / len(batch.is_kept)
        weights = self._weights(batch)[row]  # (B,) or (B, T), on the CPU like all that is float64
        if weights.dim() == 2:  # other ranks' completions may be longer
            weights = weights[:, : mask.size(1)]
        mask = mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
        if self.trl_loss.has_surrogate:
            objective_z, trl_z = self.objective.normalizer, self.trl_loss.divides_by
            if objective_z != trl_z or share < 1:
                divisor = self._normalizer(objective_z, inputs, mask, share) / self._normalizer(trl_z, inputs, mask)
                weights = weights / (divisor[:, None] if weights.dim() == 2 and divisor.dim() == 1 else divisor)
            weights = weights.to(advantages.device, advantages.dtype)
            # A copy: TRL uses the buffered inputs again when num_iterations > 1.
            folded = weights * (advantages if weights.dim() == 1 else advantages[:, None])
            return super()._compute_loss(model, {**inputs, "advantages": folded})
        rest = super()._compute_loss(model, {**inputs, "advantages": torch.zeros_like(advantages)})
        logps, self._per_token_logps = self._per_token_logps, torch.empty(0)  # its graph isn't kept
        loss, metrics = policy_loss(
            logps,
            inputs.get("old_per_token_logps", logps.detach()),
            advantages,
            mask,
            row,
            self.objective,
            weights=weights.to(mask.device, torch.float32),
            normalizer=self._normalizer(self.objective.normalizer, inputs, mask, share).to(mask.device, torch.float32),
        )
        # with advantages of 0 TRL saw nothing clipped
        clip_ratio = self.accelerator.gather(metrics["clip_ratio"].float()).mean().item()
        for name, values in self._metrics[self._mode].items():
            if name.startswith("clip_ratio/"):
                values[-1] = clip_ratio if name == "clip_ratio/region_mean" else math.nan
            elif name == "policy_loss":  # logged with an entropy bonus; TRL's means are those of a micro-batch there
                pieces = 1 if self.trl_loss.divides_by == "batch" else self._micro_batches
                values[-1] += self.accelerator.gather(loss.detach()).mean().item() * pieces
        return rest + loss.to(rest.dtype)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._per_token_logps = output[0] if not self.trl_loss.has_surrogate else self._per_token_logps
        return output

    def _normalizer(self, name: str, inputs: dict[str, Any], mask: Tensor, share: float = 1.0) -> Tensor:
        """Z of these rows as TRL has it: this rank's part of an optimiser step's; the ranks' gradients are averaged.

        name: an objective's normaliser, or "response_mean" for what TRL's "grpo" divides each response by.
        share: of the generated rows, those that are counted. TRL counts all; their tokens are masked in any case.
        """
        training, micro_batches = self._mode == "train", self._micro_batches
        tokens, rows = mask.sum(1).cpu().double(), len(mask) * micro_batches
        match name:
            case "batch":  # TRL's share of the generated batch, also where steps differ in their tokens
                steps = self.args.steps_per_generation if training else 1
                total = inputs["num_items_in_batch"].cpu().double().clamp(min=1)
                return total / self.accelerator.num_processes * micro_batches / steps
            case "response_mean":
                return rows * tokens.clamp(min=1)
            case "group":  # these rows' share of stage 1's
                batch = self._generated[self._mode]
                return batch.normalizer(self.objective)[inputs["row"].cpu()] * rows / len(batch.lengths)
            case "micro_batch":
                return micro_batches * tokens.sum().clamp(min=1)
            case "constant":
                return tokens.new_tensor(rows * share * self.max_completion_length)
            case "responses":
                return tokens.new_tensor(rows * share)
        raise AssertionError(name)

    # -- 3. λ's step -------------------------------------------------------------------------------------------------

    def _measure_lambda(self) -> None:
        """Before the optimiser's step, while fp16's loss scale is still the one that the gradient has."""
        metrics = self._metrics["train"]
        batch = self._generated["train"]
        with torch.no_grad():
            weights = self._weights(batch)
        for name, value in batch.weight_metrics(weights).items():
            metrics[name].append(value)
        metrics["informative_groups"].append(batch.informative_groups())
        if not self.objective.preference.learnable:
            return
        self._warn_if_saturated(weights, batch)
        local = torch.zeros_like(self._lambda) if self._lambda.grad is None else self._lambda.grad
        # The mean over ranks, as DDP and FSDP take it of the policy's gradient.
        grad = self.accelerator.reduce(local.float().to(self.accelerator.device), "mean").cpu().double()
        scaler = self.accelerator.scaler
        grad = grad if scaler is None else grad / scaler.get_scale()
        self._lambda_grad = grad + batch.penalty_gradient(self.objective, self._lambda)
        for name, value in lambda_metrics(self._lambda, self._lambda_grad).items():
            metrics[name].append(value)

    def _warn_if_saturated(self, weights: Tensor, batch: GeneratedBatch) -> None:
        if self._has_warned or not batch.is_saturated(weights):
            return
        self._has_warned = True
        if self.accelerator.is_main_process:
            warnings.warn(saturation_warning(self.lambda_state.value), stacklevel=2)

    def _step_lambda(self) -> None:
        """After the optimiser's step: λ moves when the policy moved. An overflow under fp16 leaves both out."""
        if not self.objective.preference.learnable:
            return
        if not self.accelerator.optimizer_step_was_skipped:
            self.lambda_state.step(self._lambda_grad)
        self._lambda = self._fresh_lambda()

    def _check_lambda_on_ranks(self) -> None:
        """Each rank keeps and steps λ by itself: with different ones their gradients would be of different losses.

        Raises:
            RuntimeError: two ranks differ; on all ranks alike, so that none waits for another.
        """
        if not self.objective.preference.learnable or self.accelerator.num_processes == 1:
            return
        # As objects: exactly, and on devices without float64, too. It costs one more gathering of TRL's kind, of some
        # bytes, where TRL gathers several with each generated batch.
        values = gather_object([self.lambda_state.value])
        if any(value != values[0] for value in values):
            raise RuntimeError(
                f"λ isn't the same on all ranks after step {self.state.global_step + 1}: "
                + ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(values))
            )


class _LambdaStep(TrainerCallback):
    """The Trainer's hooks: where the number of steps is known, and on both sides of the optimiser's step."""

    def __init__(self, trainer: LambdaGRPOTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        self.trainer.loaded_step = None
        self.first_step = state.global_step  # of this training: another one after a resumption
        self.trainer.lambda_state.schedule = self.trainer.args.lambda_schedule(state.max_steps)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._measure_lambda()

    def on_optimizer_step(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        self.trainer._step_lambda()
        if (state.global_step - self.first_step) % LAMBDA_CHECK_STEPS == 0:
            self.trainer._check_lambda_on_ranks()


def _text(value: Any) -> str:
    """A prompt or completion as text; conversations as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
