"""verl's own loss, and the gradient of λ: runs in each worker, on each micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

SLOPE = "lambda_grpo_slope"  # (B, K) ∂ln f/∂λ, in the queue with the advantages
TOKENS = "lambda_grpo_tokens"  # mean tokens of a mini-batch, if the objective doesn't divide by tokens
GRADIENT = "lambda_grpo_gradient"  # of λ; the k-th of several ends in _k
SHARE = "lambda_grpo_share"  # of the mini-batch's tokens: must sum to 1


def lambda_grpo_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> tuple[Tensor, dict[str, Any]]:
    """verl's `ppo_loss` on the folded advantages, and dL/dλ as summed metrics.

    The arguments are those of `ppo_loss`.
    """
    tokens = tu.get_non_tensor_data(data, TOKENS, None)
    if tokens is not None:
        # N of the whole batch was folded in, but verl's mean divides by this mini-batch's.
        data = data.copy()
        data["advantages"] = data["advantages"] * (data["batch_num_tokens"] / tokens)
    loss, metrics = ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    if SLOPE in data:
        gradient = lambda_gradient(config, model_output["log_probs"], data).tolist()
        summed = {f"{GRADIENT}_{k}": value for k, value in enumerate(gradient)}
        tokens_here = data["loss_mask"].sum().double()
        summed[SHARE] = (tokens_here / data["batch_num_tokens"] * data["dp_size"]).item()
        metrics.update(Metric.from_dict(summed, aggregation=AggregationType.SUM))
    return loss, metrics


def lambda_gradient(config: Any, log_probs: Tensor, data: Any) -> Tensor:
    """(K,) dL/dλ of a micro-batch, by the chain rule: Σ_i ∂ln f_i/∂λ Σ_t Â_it ∂L/∂Â_it, Â the folded advantages.

    L is verl's loss, whatever its loss_mode; its KL and entropy terms don't depend on λ. `ppo_loss` has run before and
    set the global batch's counts in `config`. In float64, since it sums many terms of both signs.
    """
    names = ["response_mask", "old_log_probs", "advantages", SLOPE]  # verl's queue gives all of them as jagged
    names += ["rollout_is_weights"] if "rollout_is_weights" in data else []
    padded = data.select(*names).to_padded_tensor()
    advantages = padded["advantages"].double()
    with torch.enable_grad():
        leaf = advantages.clone().requires_grad_()
        loss, _ = get_policy_loss_fn(config.policy_loss.get("loss_mode", "vanilla"))(
            old_log_prob=padded["old_log_probs"].double(),
            log_prob=no_padding_2_padding(log_probs, data).detach().double(),
            advantages=leaf,
            response_mask=padded["response_mask"].to(bool),
            loss_agg_mode=config.loss_agg_mode,
            config=config,
            rollout_is_weights=padded.get("rollout_is_weights", None),
        )
        (slope_of_loss,) = torch.autograd.grad(loss, leaf)
    return padded[SLOPE].double().T @ (slope_of_loss * advantages).sum(1)
