"""What TRL's reward functions gave: told apart by name, summed, and without an advantage where a group's are equal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lambda_grpo.objective import group_advantages
from lambda_grpo.objective.groups import FLOAT32, has_variance

# Of TRL's table of completions, in which each reward function has a column of its name
TABLE_COLUMNS = ("step", "prompt", "completion", "advantage")


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of reward functions, those that several have numbered: `length_1`, `length_2`.

    A number whose name is taken by another function is skipped. So is a name of `TABLE_COLUMNS` itself.
    """
    given = Counter([*names, *TABLE_COLUMNS])
    taken, found = set(given), []
    for name in names:
        own, number = name, 0
        while given[name] > 1 and own in taken:
            number += 1
            own = f"{name}_{number}"
        taken.add(own)
        found.append(own)
    return found


class RewardSum(NamedTuple):
    """Weighted sums of rewards, on the CPU.

    total: (N,) float64, NaN where no function could score.
    rounding: (N,) how much of a difference between two of them float32 may have made.
    """

    total: Tensor
    rounding: Tensor


def reward_sum(rewards: Tensor, weights: Tensor) -> RewardSum:
    """(N, F) rewards by function, NaN where one couldn't score, and (F,) their weights -> their sums.

    Each term has three roundings (reward, weight, product), a sum of F terms as TRL takes it F − 1 more; a rounding is
    half a float32 error of Σ|weight · reward|, and two sums are compared.
    """
    weighted = (rewards * weights.to(rewards.device)).cpu().double()  # the product in float32, as TRL takes it
    rounding = (rewards.size(1) + 2) * FLOAT32 * weighted.abs().nansum(1)
    return RewardSum(total_reward(weighted), rounding)


def total_reward(weighted: Tensor) -> Tensor:
    """(N, F) weighted rewards by function -> (N,) their sum, NaN where no function could score."""
    return torch.where(weighted.isnan().all(1), torch.nan, weighted.nansum(1))


def known(rewards: Sequence[float]) -> list[float | None]:
    """Rewards with None where there is none (NaN)."""
    return [None if math.isnan(reward) else reward for reward in rewards]


class EqualGroups(NamedTuple):
    """What is to be changed about the advantages that TRL made of a batch's rewards.

    differs: (N,) whether a response's group has different rewards. Elsewhere its advantage is 0.
    advantages: (N,) to be taken in place of TRL's; None where they are right.
    """

    differs: Tensor
    advantages: Tensor | None = None


def equal_groups(rewards: Tensor, weights: Tensor, group_size: int, aggregation: str) -> EqualGroups:
    """Where TRL's advantages have nothing to say, but may be off 0 by the rounding of a group's mean.

    With "normalize_then_sum" a reward function whose rewards are equal in some group adds that rounding, divided by
    1e-4, to the sum of all of them; such a batch is computed anew.

    Args:
        rewards: (N, F) by function, in float32.
        weights: (F,).
        group_size: the rows of a group, which are adjacent.
        aggregation: TRL's `multi_objective_aggregation`.
    """
    ids = torch.arange(len(rewards)) // group_size
    if aggregation == "sum_then_normalize":
        total, rounding = reward_sum(rewards, weights)
        return EqualGroups(has_variance(total, ids, rounding))
    grouped = rewards.view(-1, group_size, rewards.size(1))
    residue = (grouped - torch.nanmean(grouped, dim=1, keepdim=True)).view_as(rewards).cpu()  # as TRL takes it
    columns = rewards.cpu().unbind(1)
    differs = torch.stack([has_variance(column, ids) for column in columns], 1)
    normalised = torch.stack([group_advantages(column, ids) for column in columns], 1)
    normalised = normalised.masked_fill(rewards.cpu().isnan(), torch.nan)
    total, rounding = reward_sum(normalised, weights)
    has_residue = bool((~differs & (residue.nan_to_num() != 0)).any())
    anew = group_advantages(total.float(), torch.zeros_like(ids)) if has_residue else None  # one group: the batch
    return EqualGroups(has_variance(total, ids, rounding), anew)
