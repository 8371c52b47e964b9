"""Implied λ: the λ of λ-GRPO whose weights are closest to those of a fixed method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lambda_grpo.objective.groups import Groups
from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.preferences import LambdaSoftmax, Preference
from lambda_grpo.objective.weights import response_weights

GRID = 41  # values of λ that are tried at a time
STARTS = 3
ROUNDS = 5


def implied_lambda(
    lengths: Tensor,
    group_ids: Tensor,
    objective: Objective | str,
    lambda_: float | Tensor = 0.0,
    *,
    bounds: tuple[float, float] = (-10.0, 10.0),
    preference: Preference | None = None,
    advantages: Tensor | None = None,
    entropies: Tensor | None = None,
    completion_ids: Tensor | None = None,
    token_mask: Tensor | None = None,
) -> float | None:
    """The λ whose weights are closest to a method's on these responses: "GRPO on your data acts like λ = −3.1".

    Closest: minimum KL(method ‖ λ) between each group's weights, scaled to sum to 1, averaged over the groups.
    Empty responses, which have no tokens to weigh, are left out; so are groups whose lengths are all equal, which
    every λ weighs alike.

    Args:
        lengths: (B,) tokens that the policy generated, before truncation masking.
        group_ids: (B,) integers; members of a group need not be adjacent.
        objective: an `Objective`, or the name of a preset.
        lambda_: where the objective itself depends on λ, its λ.
        bounds: the λ to choose among.
        preference: what λ stands for; λ-GRPO's f = G · softmax(h^λ) with r = 1/9 if None.
        advantages: (B,), and entropies, completion_ids, token_mask: (B, T), as in `response_weights`.

    Returns:
        λ within the bounds, to 3e-7 of their distance; or None where it has no meaning: the method weighs
        tokens, not responses, or no group has responses of different lengths.

    Raises:
        ValueError: shapes differ, the bounds are out of order, or the objective needs what wasn't given.
    """
    low, high = bounds
    if not low < high:
        raise ValueError(f"the bounds of λ must be two numbers in order, got {bounds}")
    weights = response_weights(
        lengths, group_ids, objective, lambda_,
        advantages=advantages, entropies=entropies, completion_ids=completion_ids, token_mask=token_mask,
    ).detach()  # fmt: skip
    if weights.dim() != 1:
        return None
    groups = Groups.of(lengths, group_ids)
    has_tokens = groups.lengths > 0
    longest, shortest = groups.max(groups.lengths), -groups.max(torch.where(has_tokens, -groups.lengths, -torch.inf))
    used = has_tokens & (longest > shortest)
    if not used.any():
        return None
    # the statistics of a group (μ, σ) take in its empty responses, the two distributions don't
    share = torch.where(used, weights, 0.0)
    share = share / groups.sum(share).clamp(min=1e-300)
    preference = preference or LambdaSoftmax()

    def cross_entropy(candidate: float) -> float:
        """KL(method ‖ λ) up to what doesn't depend on λ, summed over the groups."""
        fitted = preference(groups, torch.tensor(candidate, dtype=torch.float64, device=lengths.device))
        fitted = torch.where(used, fitted, 0.0)
        log_share = fitted.clamp(min=1e-300).log() - groups.sum(fitted).clamp(min=1e-300).log()
        return -(share * torch.where(used, log_share, 0.0)).sum().item()

    grid = torch.linspace(low, high, GRID, dtype=torch.float64).tolist()
    # the divergence need not be convex in λ: the first grid covers the whole range, and its best points are refined
    found = [
        _zoom(cross_entropy, start, grid[1] - grid[0], bounds) for start in sorted(grid, key=cross_entropy)[:STARTS]
    ]
    return min(found, key=cross_entropy)


def _zoom(function: Callable[[float], float], best: float, step: float, bounds: tuple[float, float]) -> float:
    """Where a function is minimal near `best`, by grids that are ten times as fine each time."""
    for _ in range(ROUNDS):
        low, high = max(bounds[0], best - 2 * step), min(bounds[1], best + 2 * step)
        grid = torch.linspace(low, high, GRID, dtype=torch.float64).tolist()
        best, step = min(grid, key=function), grid[1] - grid[0]
    return best
