"""Stage 1, part two: what each response's tokens are multiplied and divided by. Needs whole groups."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo.objective.groups import Groups
from lambda_grpo.objective.presets import Objective, get_objective


def response_weights(
    lengths: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    lambda_: float | Tensor = 0.0,
    *,
    entropies: Tensor | None = None,
    completion_ids: Tensor | None = None,
) -> Tensor:
    """Token preference f of each response: what multiplies its tokens before normalisation.

    Must see whole groups; a micro-batch doesn't hold them.

    Args:
        lengths: (B,) tokens that the policy generated, before truncation masking.
        group_ids: (B,) integers; members of a group need not be adjacent.
        objective: an `Objective`, or the name of a preset.
        lambda_: λ; the result is differentiable in it where it is a tensor that requires a gradient.
        entropies, completion_ids: (B, T) for an objective that needs them.

    Returns:
        (B,) float64 weights, 1 for a response of length 0.

    Raises:
        ValueError: shapes differ, no preset has that name, or the objective needs what wasn't given.
    """
    objective = get_objective(objective)
    given = {"entropies": entropies, "completion_ids": completion_ids}
    for name in objective.needs:
        if given[name] is None:
            raise ValueError(f"objective {objective.name!r} needs {name}, which wasn't given")
    groups = Groups.of(lengths, group_ids, **given)
    lambda_ = torch.as_tensor(lambda_, dtype=torch.float64, device=groups.lengths.device)
    weights = torch.where(groups.lengths == 0, 1.0, objective.preference(groups, lambda_))
    if objective.weight_norm == "tokens":
        tokens, weighted = groups.sum(groups.lengths), groups.sum(weights * groups.lengths)
        weights = torch.where(weighted > 0, weights * tokens / weighted.clamp(min=1e-300), weights)
    return weights


def loss_normalizer(
    lengths: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    *,
    tokens: Tensor | None = None,
    max_completion_length: int | None = None,
) -> Tensor:
    """Normaliser Z_i of each response, for the whole batch of one optimiser step.

    Args:
        lengths: (B,) tokens that the policy generated, before truncation masking.
        group_ids: (B,) integers.
        objective: an `Objective`, or the name of a preset.
        tokens: (B,) tokens that carry loss, where truncation masking makes them fewer than `lengths`. They count in
            "batch", as in TRL; "group" counts `lengths`, so that a masked response still takes its place in
            GRPO's mean over responses, as in TRL too.
        max_completion_length: what "constant" multiplies the number of responses by.

    Returns:
        (B,) float64.

    Raises:
        ValueError: shapes differ, or `max_completion_length` is needed and missing.
    """
    objective = get_objective(objective)
    groups = Groups.of(lengths, group_ids)
    if objective.normalizer == "group":
        total = groups.count * groups.sum(groups.lengths)
    elif objective.normalizer == "batch":
        total = (groups.lengths if tokens is None else tokens.double()).sum().expand_as(groups.lengths)
    elif max_completion_length is None:
        raise ValueError(f"objective {objective.name!r} needs max_completion_length: it normalises by that constant")
    else:
        total = torch.full_like(groups.lengths, len(lengths) * max_completion_length)
    return total.clamp(min=1)
