"""Stage 2, part two: the weighted sum over tokens, for a whole batch or any piece of one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.presets import get_objective
from lambda_grpo.objective.surrogates import SurrogateInputs, reference_kl
from lambda_grpo.objective.weights import lambda_penalty, loss_normalizer, response_weights


class PolicyLoss(NamedTuple):
    """The loss to call backward on, and detached scalars worth logging."""

    loss: Tensor
    metrics: dict[str, Tensor]


def policy_loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    lambda_: float | Tensor = 0.0,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    lengths: Tensor | None = None,
    weights: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    entropies: Tensor | None = None,
    completion_ids: Tensor | None = None,
    ref_per_token_logps: Tensor | None = None,
    beta: float = 0.0,
    max_completion_length: int | None = None,
) -> PolicyLoss:
    """L = − Σ_i f_i Σ_t s_it / Z_i + β · KL: every method of the family (arXiv 2510.06870, unified objective).

    For a whole batch the required arguments suffice. For a micro-batch pass `weights` and `normalizer`, computed on
    the whole batch by `response_weights` and `loss_normalizer` and indexed for its samples: the micro-batches' losses
    then sum to the batch's loss, however the batch is split. (DARO adds a penalty on λ itself: with micro-batches the
    caller has to add it once, `lambda_penalty`.)

    Args:
        per_token_logps: (B, T) log-probabilities under the policy.
        old_per_token_logps: (B, T) the same under the policy that sampled.
        advantages: (B,).
        completion_mask: (B, T) 1 where a token carries loss. Values outside never reach the loss, even NaN.
        group_ids: (B,) integers; members of a group need not be adjacent.
        objective: an `Objective`, or the name of a preset.
        lambda_: λ; the loss is differentiable in it where it is a tensor that requires a gradient.
        epsilon, epsilon_high: clip range for a surrogate without its own; `epsilon_high` defaults to `epsilon`.
        lengths: (B,) generated tokens, if they aren't the sums of `completion_mask` (truncation masking).
        weights: (B,) or (B, T) f of stage 1.
        normalizer: (B,) or scalar Z of stage 1. Required with `weights`, and only then.
        entropies, completion_ids: (B, T) for an objective whose preference needs them.
        ref_per_token_logps: (B, T) the reference policy's log-probabilities, needed where `beta` isn't 0.
        beta: weight of the KL penalty.
        max_completion_length: needed by objectives that normalise by it.

    Returns:
        `PolicyLoss`: loss, and metrics `clip_ratio`, `weight_min`, `weight_max` and, with `beta`, `kl`.

    Raises:
        ValueError: shapes differ, or the objective needs an argument that wasn't given.
    """
    objective = get_objective(objective)
    normalizer = None if normalizer is None else torch.as_tensor(normalizer, device=per_token_logps.device)
    shape = per_token_logps.shape
    for name, tensor, expected in (
        ("old_per_token_logps", old_per_token_logps, shape),
        ("completion_mask", completion_mask, shape),
        ("ref_per_token_logps", ref_per_token_logps, shape),
        ("advantages", advantages, shape[:1]),
        ("group_ids", group_ids, shape[:1]),
        ("lengths", lengths, shape[:1]),
        ("weights", weights, shape if weights is not None and weights.dim() == 2 else shape[:1]),
        ("normalizer", normalizer, () if normalizer is None or normalizer.dim() == 0 else shape[:1]),  # scalar: one Z
    ):
        if tensor is not None and tensor.shape != expected:
            raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(tensor.shape)}")
    if (weights is None) != (normalizer is None):
        raise ValueError("weights and normalizer go together: both from stage 1 on the whole batch, or neither")
    if beta != 0.0 and ref_per_token_logps is None:
        raise ValueError("beta isn't 0: the KL penalty needs ref_per_token_logps")

    mask = completion_mask.bool()
    tokens = mask.sum(1)
    is_whole = lengths is None  # no truncation masking: all tokens of the policy carry loss
    lengths = tokens if lengths is None else lengths
    if objective.advantage_min is not None:
        advantages = advantages.clamp(min=objective.advantage_min)
    penalty: Tensor | None = None
    if weights is None or normalizer is None:
        weights = response_weights(
            lengths, group_ids, objective, lambda_,
            advantages=advantages, entropies=entropies, completion_ids=completion_ids,
            token_mask=mask if is_whole else None,
        )  # fmt: skip
        normalizer = loss_normalizer(
            lengths, group_ids, objective,
            tokens=tokens, max_completion_length=max_completion_length, micro_batches=torch.zeros_like(tokens),
        )  # fmt: skip
        if objective.preference.learnable:
            penalty = lambda_penalty(lengths, group_ids, objective, lambda_, advantages=advantages)
    dtype = torch.promote_types(per_token_logps.dtype, torch.float32)  # bf16 can't hold a ratio near 1
    weights = weights.to(dtype)
    per_token_logps = _masked(per_token_logps, mask, dtype)

    surrogate, is_clipped = objective.surrogate(
        SurrogateInputs(
            per_token_logps,
            per_token_logps - _masked(old_per_token_logps, mask, dtype),
            advantages.to(dtype)[:, None],
            mask,
            epsilon,
            epsilon if epsilon_high is None else epsilon_high,
        )
    )
    if weights.dim() == 2 and surrogate.size(1) == 1 != shape[1]:
        raise ValueError(
            f"objective {objective.name!r}: its preference tells a response's tokens apart, but its surrogate has one "
            "value a response, the same for each token; use a surrogate of token ratios"
        )
    per_response = -_weighted_sum(weights, surrogate * mask)  # (B,)
    count = tokens.sum().clamp(min=1)
    metrics = {
        "clip_ratio": (is_clipped & mask).sum() / count,
        "weight_min": weights.detach().min(),
        "weight_max": weights.detach().max(),
    }
    if beta != 0.0 and ref_per_token_logps is not None:
        kl = reference_kl(per_token_logps, _masked(ref_per_token_logps, mask, dtype)) * mask
        per_response = per_response + beta * (_weighted_sum(weights, kl) if objective.kl_weighted else kl.sum(1))
        metrics["kl"] = kl.detach().sum() / count
    loss = (per_response / normalizer.to(dtype)).sum()
    return PolicyLoss(loss if penalty is None else loss + penalty.to(dtype), metrics)


def _weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """(B,): Σ_t f_it · v_it. A response's weight is taken out of the sum, where its gradient is cheaper."""
    return weights * values.sum(1) if weights.dim() == 1 else (weights * values).sum(1)


def _masked(values: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros outside the mask, before any exp: an overflow there would leave NaN in the gradient."""
    return torch.where(mask, values.to(dtype), 0.0)
