"""The weights folded into TRL's advantages: stage 1 on whole groups, the ratio of normalisers, and λ's step.

A token preference folds into the advantages, f · min(ρA, clip(ρ)A) = min(ρ · fA, clip(ρ) · fA) for f > 0, and so does
the ratio of the objective's normaliser to that of TRL's loss.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from lambda_grpo.objective import Objective, policy_loss
from lambda_grpo.objective.batch import GeneratedBatch, lambda_metrics
from lambda_grpo.objective.lambda_state import LambdaState
from lambda_grpo.objective.settings import saturation_warning
from lambda_grpo.trl.losses import TRLLoss


class Fold:
    """Computes an objective with one of TRL's losses, and trains its λ.

    Args:
        objective: the objective.
        loss: the loss of TRL that computes it.
        lambda_state: λ.
        steps_per_generation: micro-batches of a generated batch.
        max_completion_length: tokens that a completion may have.

    Attributes:
        lambda_: λ as a leaf that accumulates the loss's gradient; a new one after each step.
        lambda_grad: dL/dλ of the last optimiser step, over all ranks.
        batches: the generated batch of "train" and of "eval".
        measured_weights: f in the last optimiser step, as `GeneratedBatch.counted`.
    """

    def __init__(
        self,
        objective: Objective,
        loss: TRLLoss,
        lambda_state: LambdaState,
        accelerator: Any,
        *,
        steps_per_generation: int,
        max_completion_length: int,
    ):
        self.objective, self.loss, self.lambda_state, self.accelerator = objective, loss, lambda_state, accelerator
        self.steps_per_generation, self.max_completion_length = steps_per_generation, max_completion_length
        self.batches: dict[str, GeneratedBatch] = {}
        self._has_warned = False
        self.measured_weights = torch.empty(0)
        self.restart_lambda()
        self.lambda_grad = torch.zeros_like(self.lambda_)

    def restart_lambda(self) -> None:
        """Make a new leaf of λ's current value."""
        self.lambda_: Tensor = self.lambda_state.leaf(requires_grad=self.objective.preference.learnable)

    # -- 1. whole groups ---------------------------------------------------------------------------------------------

    def begin(self, mode: str, batch: GeneratedBatch) -> GeneratedBatch:
        """Store a generated batch, whose weights are folded into the loss of each of its micro-batches."""
        if not self.objective.preference.learnable:  # once for all micro-batches
            batch = replace(batch, fixed_weights=batch.weights(self.objective, self.lambda_))
        self.batches[mode] = batch
        return batch

    def weights(self, batch: GeneratedBatch) -> Tensor:
        """(N,) or (N, T) f of the whole batch at the current λ."""
        fixed = batch.fixed_weights
        return batch.weights(self.objective, self.lambda_) if fixed is None else fixed

    # -- 2. at the loss ----------------------------------------------------------------------------------------------

    def advantages(self, inputs: dict[str, Any], mode: str, micro_batches: int) -> Tensor:
        """(B,) or (B, T) f · A · Z of TRL's loss / Z of the objective.

        Args:
            inputs: a micro-batch of TRL, with `sample_index`: (B,) the index of each sample in the generated batch.
            mode: "train" or "eval".
            micro_batches: their number in an optimiser step.
        """
        advantages, mask = inputs["advantages"], loss_mask(inputs)
        weights = self._weights_of(inputs, mode)
        objective_z, trl_z = self.objective.normalizer, self.loss.divides_by
        share = self._share(mode)
        if objective_z != trl_z or share < 1:
            z = self._normalizer(objective_z, inputs, mask, mode, micro_batches, share)
            divisor = z / self._normalizer(trl_z, inputs, mask, mode, micro_batches)
            weights = weights / (divisor[:, None] if weights.dim() == 2 and divisor.dim() == 1 else divisor)
        weights = weights.to(advantages.device, advantages.dtype)
        return weights * (advantages if weights.dim() == 1 else advantages[:, None])

    def policy_loss(
        self, inputs: dict[str, Any], logps: Tensor, mode: str, micro_batches: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's own loss and metrics, for a surrogate that none of TRL's losses has.

        logps: (B, T) of the policy, with their graph. The other arguments are those of `advantages`.
        """
        mask = loss_mask(inputs)
        z = self._normalizer(self.objective.normalizer, inputs, mask, mode, micro_batches, self._share(mode))
        return policy_loss(
            logps,
            inputs.get("old_per_token_logps", logps.detach()),
            inputs["advantages"],
            mask,
            inputs["sample_index"].cpu(),
            self.objective,
            weights=self._weights_of(inputs, mode).to(mask.device, torch.float32),
            normalizer=z.to(mask.device, torch.float32),
        )

    def log_policy_loss(
        self, trl_metrics: dict[str, list[Any]], loss: Tensor, metrics: dict[str, Tensor], micro_batches: int
    ) -> None:
        """Correct TRL's metrics for a loss that was computed here: with advantages of 0, TRL counts no clipping."""
        clip_ratio = self.accelerator.gather(metrics["clip_ratio"].float()).mean().item()
        for name, values in trl_metrics.items():
            if name.startswith("clip_ratio/"):
                values[-1] = clip_ratio if name == "clip_ratio/region_mean" else math.nan
            elif name == "policy_loss":  # logged with an entropy bonus; TRL's means are those of a micro-batch there
                pieces = 1 if self.loss.divides_by == "batch" else micro_batches
                values[-1] += self.accelerator.gather(loss.detach()).mean().item() * pieces

    def _weights_of(self, inputs: dict[str, Any], mode: str) -> Tensor:
        """(B,) or (B, T) f of a micro-batch, on the CPU like everything in float64."""
        weights = self.weights(self.batches[mode])[inputs["sample_index"].cpu()]
        # other ranks' completions may be longer
        return weights[:, : inputs["completion_mask"].size(1)] if weights.dim() == 2 else weights

    def _share(self, mode: str) -> float:
        """The share of the generated samples that are kept."""
        is_kept = self.batches[mode].is_kept
        return max(int(is_kept.sum()), 1) / len(is_kept)

    def _normalizer(
        self, name: str, inputs: dict[str, Any], mask: Tensor, mode: str, micro_batches: int, share: float = 1.0
    ) -> Tensor:
        """Z for a micro-batch, as TRL defines it: for one rank of an optimiser step, as ranks' gradients are averaged.

        name: an objective's normaliser, or "response_mean", the divisor of each response in TRL's "grpo".
        share: of the generated samples that are counted. TRL counts all; the others' tokens are masked in any case.
        """
        tokens, samples = mask.sum(1).cpu().double(), len(mask) * micro_batches
        match name:
            case "batch":  # TRL's share of the generated batch, also where steps differ in their tokens
                steps = self.steps_per_generation if mode == "train" else 1
                total = inputs["num_items_in_batch"].cpu().double().clamp(min=1)
                return total / self.accelerator.num_processes * micro_batches / steps
            case "response_mean":
                return samples * tokens.clamp(min=1)
            case "group":  # these samples' share of stage 1's
                batch = self.batches[mode]
                return batch.normalizer(self.objective)[inputs["sample_index"].cpu()] * samples / len(batch.lengths)
            case "micro_batch":
                return micro_batches * tokens.sum().clamp(min=1)
            case "constant":
                return tokens.new_tensor(samples * share * self.max_completion_length)
            case "responses":
                return tokens.new_tensor(samples * share)
        raise AssertionError(name)

    # -- 3. λ's step -------------------------------------------------------------------------------------------------

    def measure(self, metrics: dict[str, list[Any]]) -> None:
        """Compute λ's gradient and the metrics, before the optimiser's step changes the loss scale of fp16."""
        batch = self.batches["train"]
        with torch.no_grad():
            weights = self.weights(batch)
        self.measured_weights = batch.counted(weights)
        for name, value in batch.weight_metrics(weights).items():
            metrics[name].append(value)
        metrics["informative_groups"].append(batch.informative_groups())
        if not self.objective.preference.learnable:
            return
        self._warn_if_saturated(weights, batch)
        local = torch.zeros_like(self.lambda_) if self.lambda_.grad is None else self.lambda_.grad
        # The mean over ranks, as in DDP and FSDP for the policy's gradient.
        grad = self.accelerator.reduce(local.float().to(self.accelerator.device), "mean").cpu().double()
        scaler = self.accelerator.scaler
        grad = grad if scaler is None else grad / scaler.get_scale()
        self.lambda_grad = grad + batch.penalty_gradient(self.objective, self.lambda_)
        for name, value in lambda_metrics(self.lambda_, self.lambda_grad).items():
            metrics[name].append(value)

    def _warn_if_saturated(self, weights: Tensor, batch: GeneratedBatch) -> None:
        if self._has_warned or not batch.is_saturated(weights):
            return
        self._has_warned = True
        if self.accelerator.is_main_process:
            warnings.warn(saturation_warning(self.lambda_state.value), stacklevel=2)

    def step(self) -> None:
        """Step λ after the optimiser's step, unless that was skipped because of an overflow in fp16."""
        if not self.objective.preference.learnable:
            return
        if not self.accelerator.optimizer_step_was_skipped:
            self.lambda_state.step(self.lambda_grad)
        self.restart_lambda()

    def check_ranks(self, step: int) -> None:
        """Check that all ranks, each of which steps its own copy of λ, have the same value.

        step: the training step, for the message.

        Raises:
            RuntimeError: two ranks differ; it is raised on all ranks, so that none waits for another.
        """
        if not self.objective.preference.learnable or self.accelerator.num_processes == 1:
            return
        # As objects: exact, also on devices without float64. This is one more gather of a few bytes; TRL does several
        # with each generated batch.
        values = gather_object([self.lambda_state.value])
        if any(value != values[0] for value in values):
            raise RuntimeError(
                f"λ isn't the same on all ranks after step {step}: "
                + ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(values))
            )


def loss_mask(inputs: dict[str, Any]) -> Tensor:
    """(B, T) tokens that carry loss."""
    mask: Tensor = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
