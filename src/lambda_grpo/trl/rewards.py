"""Rewards by function: distinct names, weighted sums, and which groups have reward variance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

from lambda_grpo.objective.groups import FLOAT32, has_variance

# Columns of TRL's table of completions, in which each reward function has a column, too
TABLE_COLUMNS = ("step", "prompt", "completion", "advantage")


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of reward functions, numbered where several have the same name: `length_1`, `length_2`.

    A number is skipped if another function has that name. A name in `TABLE_COLUMNS` is numbered, too.
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
    rounding: (N,) the difference between two equal sums that float32 rounding may cause.
    """

    total: Tensor
    rounding: Tensor


def reward_sum(rewards: Tensor, weights: Tensor) -> RewardSum:
    """(N, F) rewards by function, NaN where one couldn't score, and (F,) their weights -> their sums.

    Each term is rounded three times (reward, weight, product), and TRL's sum of F terms F − 1 times more. Each rounding
    is at most half of float32's ε times Σ|weight · reward|, and the difference of two sums has both errors.
    """
    weighted = (rewards * weights.to(rewards.device)).cpu().double()  # the product in float32, as in TRL
    rounding = (rewards.size(1) + 2) * FLOAT32 * weighted.abs().nansum(1)
    return RewardSum(total_reward(weighted), rounding)


def total_reward(weighted: Tensor) -> Tensor:
    """(N, F) weighted rewards by function -> (N,) their sum, NaN where no function could score."""
    return torch.where(weighted.isnan().all(1), torch.nan, weighted.nansum(1))


def known(rewards: Sequence[float]) -> list[float | None]:
    """Rewards with None where there is none (NaN)."""
    return [None if math.isnan(reward) else reward for reward in rewards]


class RewardTable:
    """The weighted sums of (N, F) rewards by function, with or without the overlong penalty.

    Args:
        names: of the F reward functions.
        weights: (F,).
        overlong: index of the overlong penalty, which doesn't count as a reward of the task; None without one.
    """

    def __init__(self, names: Sequence[str], weights: Tensor, overlong: int | None = None):
        self.names, self.weights, self.overlong = names, weights, overlong

    @property
    def tasks(self) -> list[int]:
        """The places of the functions that score the task."""
        return [i for i in range(len(self.names)) if i != self.overlong]

    def sum(self, rewards: Tensor) -> RewardSum:
        """Of (N, F) rewards the weighted sum."""
        return reward_sum(rewards, self.weights)

    def task_sum(self, rewards: Tensor) -> RewardSum:
        """The same without the overlong penalty."""
        return reward_sum(rewards[:, self.tasks], self.weights[self.tasks])

    def is_informative(self, rewards: Tensor, group_size: int) -> Tensor:
        """(N, F) -> (N,): whether a sample's group has different rewards for the task."""
        total, rounding = self.task_sum(rewards)
        return has_variance(total, torch.arange(len(rewards)) // group_size, rounding)

    def without_penalty_alone(self, rewards: Tensor) -> Tensor:
        """The rewards with no overlong penalty (NaN) where no other function could score."""
        if self.overlong is None:
            return rewards
        rewards[:, self.overlong] = rewards[:, self.overlong].masked_fill(
            rewards[:, self.tasks].isnan().all(1), torch.nan
        )
        return rewards

    def log(self, metrics: dict[str, list[float]], rewards: Tensor, group_size: int) -> None:
        """Put TRL's last metrics of rewards right: of these, in place of those that it was given."""
        total, rounding = self.sum(rewards)
        columns = {f"rewards/{name}": rewards[:, i] for i, name in enumerate(self.names)}
        for name, values in columns.items():
            metrics[f"{name}/mean"][-1], metrics[f"{name}/std"][-1] = values.nanmean().item(), nanstd(values).item()
        metrics["reward"][-1], metrics["reward_std"][-1] = total.nanmean().item(), nanstd(total).item()
        differs = has_variance(total, torch.arange(len(total)) // group_size, rounding)
        metrics["frac_reward_zero_std"][-1] = 1 - differs.double().mean().item()
