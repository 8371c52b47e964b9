"""Stage 1, part two: the weight f and the normaliser Z of each response. Needs whole groups."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo.objective.groups import Groups
from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.presets import get_objective

SATURATED = 1.25  # effective sample size where one of eight responses has 0.9 of the weight


def response_weights(
    lengths: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    lambda_: float | Tensor = 0.0,
    *,
    advantages: Tensor | None = None,
    entropies: Tensor | None = None,
    completion_ids: Tensor | None = None,
    token_mask: Tensor | None = None,
) -> Tensor:
    """Token preference f of each response: what multiplies its tokens before normalisation.

    Must see whole groups; a micro-batch doesn't hold them.

    Args:
        lengths: (B,) tokens that the policy generated, before truncation masking.
        group_ids: (B,) integers; members of a group need not be adjacent.
        objective: an `Objective`, or the name of a preset.
        lambda_: λ; the result is differentiable in it where it is a tensor that requires a gradient.
        advantages: (B,), and entropies, completion_ids: (B, T), for an objective that needs them.
        token_mask: (B, T) 1 for tokens that the policy generated, before truncation masking. Without it they are the
            first |o| of each row, which a tool's output in between would belie.

    Returns:
        (B,) float64 weights, 1 for a response of length 0; (B, T) for a token-level preference, 0 where there is no
        token.

    Raises:
        ValueError: shapes differ, no preset has that name, or the objective needs what wasn't given.
    """
    objective = get_objective(objective)
    groups = _groups(
        lengths, group_ids, objective,
        advantages=advantages, entropies=entropies, completion_ids=completion_ids, token_mask=token_mask,
    )  # fmt: skip
    weights = objective.preference(groups, _as_lambda(lambda_, groups))
    if (weights.dim() == 2) != objective.preference.per_token:
        raise ValueError(
            f"objective {objective.name!r}: its preference gives {tuple(weights.shape)}, "
            f"but it is declared with per_token={objective.preference.per_token}"
        )
    is_empty = groups.lengths == 0
    if weights.dim() == 2 and groups.token_mask is not None:
        weights = torch.where(groups.token_mask, weights, 0.0)
    elif is_empty.any():
        weights = torch.where(is_empty, 1.0, weights)
    if objective.weight_norm == "tokens":
        weighted = groups.sum(weights * groups.lengths if weights.dim() == 1 else weights.sum(1))
        scale = torch.where(weighted > 0, groups.total_length / weighted.clamp(min=1e-300), 1.0)
        weights = weights * (scale if weights.dim() == 1 else scale[:, None])
    return weights


def mean_weights(weights: Tensor, lengths: Tensor) -> Tensor:
    """(B,) the mean of f over each response's tokens, of (B,) or (B, T) weights; 1 for a response without any."""
    if weights.dim() == 1:
        return weights
    return torch.where(lengths > 0, weights.sum(1) / lengths.clamp(min=1), 1.0)


def lambda_penalty(
    lengths: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    lambda_: float | Tensor = 0.0,
    *,
    advantages: Tensor | None = None,
) -> Tensor:
    """The penalty on λ itself in an objective's loss, a float64 scalar; 0 for all but DARO.

    `policy_loss` adds it if it is given a whole batch. With micro-batches the caller adds it once per batch.

    Args:
        lengths, group_ids, objective, lambda_, advantages: as in `response_weights`.
    """
    objective = get_objective(objective)
    if not objective.preference.learnable:
        return torch.zeros((), dtype=torch.float64, device=lengths.device)
    if "advantages" in objective.preference.needs and advantages is None:
        raise ValueError(f"objective {objective.name!r} needs advantages, which wasn't given")
    groups = Groups.of(lengths, group_ids, advantages=advantages)
    return objective.preference.penalty(groups, _as_lambda(lambda_, groups))


def loss_normalizer(
    lengths: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    *,
    tokens: Tensor | None = None,
    max_completion_length: int | None = None,
    micro_batches: Tensor | None = None,
) -> Tensor:
    """Normaliser Z_i of each response, for the whole batch of one optimiser step.

    Args:
        lengths: (B,) tokens that the policy generated, before truncation masking.
        group_ids: (B,) integers.
        objective: an `Objective`, or the name of a preset.
        tokens: (B,) tokens that carry loss, where truncation masking makes them fewer than `lengths`. They count in
            "batch" and "micro_batch", as in TRL; "group" counts `lengths`, so that a masked response still counts in
            GRPO's mean over responses, as in TRL too.
        max_completion_length: needed by "constant", which is this times the number of responses.
        micro_batches: (B,) integers, the micro-batch of each response. Needed by "micro_batch", whose loss is the
            mean over micro-batches of the mean over their own tokens.

    Returns:
        (B,) float64.

    Raises:
        ValueError: shapes differ, or the objective needs an argument that wasn't given.
    """
    objective = get_objective(objective)
    counted = lengths if tokens is None else tokens
    if group_ids.shape != lengths.shape:
        raise ValueError(
            f"lengths and group_ids must both have shape (B,), got {tuple(lengths.shape)} and {tuple(group_ids.shape)}"
        )
    match objective.normalizer:
        case "batch":
            total = counted.sum().double()
        case "group":
            groups = Groups.of(lengths, group_ids)
            total = groups.count * groups.total_length
        case "responses":
            total = torch.tensor(float(len(lengths)), dtype=torch.float64, device=lengths.device)
        case "constant":
            if max_completion_length is None:
                raise ValueError(f"objective {objective.name!r} needs max_completion_length: it divides by that")
            total = torch.tensor(
                float(len(lengths) * max_completion_length), dtype=torch.float64, device=lengths.device
            )
        case "micro_batch":
            if micro_batches is None:
                raise ValueError(f"objective {objective.name!r} needs micro_batches: it divides by their tokens")
            pieces = Groups.of(counted, micro_batches)
            total = pieces.count * pieces.total_length
    return total.clamp(min=1).expand_as(counted)


def effective_sample_size(weights: Tensor, group_ids: Tensor) -> Tensor:
    """Effective sample size of each group, (Σ f)² / Σ f²: G if all responses count alike, 1 if one has all weight.

    Args:
        weights: (B,) f.
        group_ids: (B,) integers.

    Returns:
        (P,) float64, in the order of the sorted ids.
    """
    groups = Groups.of(weights, group_ids)  # whose "lengths" are the weights here
    squares = groups.sum(groups.lengths.square())
    return groups.per_group(groups.total_length.square() / squares.clamp(min=1e-300))


def is_saturated(weights: Tensor, lengths: Tensor, group_ids: Tensor) -> bool:
    """Whether one response has about nine tenths of the weight in half of the groups whose lengths differ.

    Beyond that λ's gradient vanishes, and the other responses are hardly trained on.

    Args:
        weights, lengths: (B,) f, and generated tokens.
        group_ids: (B,) integers.
    """
    groups = Groups.of(lengths, group_ids)
    differs = groups.per_group(groups.max(groups.lengths) > -groups.max(-groups.lengths))
    effective = effective_sample_size(weights, group_ids)[differs]
    return len(effective) > 0 and bool((effective < SATURATED).double().mean() >= 0.5)


def _groups(lengths: Tensor, group_ids: Tensor, objective: Objective, **given: Tensor | None) -> Groups:
    """Whole groups with what the objective needs. Raises ValueError, naming what is missing."""
    for name in objective.preference.needs:
        if given.get(name) is None:
            raise ValueError(f"objective {objective.name!r} needs {name}, which wasn't given")
    needed = {name: value for name, value in given.items() if name in (*objective.preference.needs, "token_mask")}
    return Groups.of(lengths, group_ids, **needed)


def _as_lambda(lambda_: float | Tensor, groups: Groups) -> Tensor:
    return torch.as_tensor(lambda_, dtype=torch.float64, device=groups.lengths.device)
