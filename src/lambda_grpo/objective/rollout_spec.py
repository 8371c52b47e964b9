"""Sample filtering, selection and correction between sampling and the loss, as settings of an objective.

An engine applies them (`trl/rollouts.py`); the loss sees only the samples that are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lambda_grpo.objective.groups import FLOAT32, REWARD_ROUNDINGS, has_variance
from lambda_grpo.suggestions import did_you_mean

Baseline = Literal["group", "selected"]


class Selection(Protocol):
    """Which samples of a group are trained on, by their rewards.

    baseline: the samples whose mean and std the advantages use: the whole "group", or the "selected" ones.
    """

    @property
    def baseline(self) -> Baseline: ...

    def __call__(self, rewards: Tensor, group_ids: Tensor) -> Tensor:
        """(B,), (B,) -> (B,) booleans. A reward of NaN, which couldn't be scored, is never selected."""
        ...


@dataclass(frozen=True)
class BestAndWorst:
    """The samples with the k highest and the k lowest rewards of each group; ties are broken by their order in it.

    For rewards of 0 and 1 this is the subset of maximum variance, as in PODS (arXiv 2504.13818, baseline "selected").
    """

    k: int = 2
    baseline: Baseline = "group"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"the best and worst k of a group: k must be at least 1, got {self.k}")
        _check_baseline(self.baseline)

    def __call__(self, rewards: Tensor, group_ids: Tensor) -> Tensor:
        is_scored = ~rewards.isnan()
        _, index = torch.unique(group_ids, return_inverse=True)
        # by group, then by reward, those without one last; both sorts are stable
        order = torch.argsort(rewards.nan_to_num(torch.inf), stable=True)
        order = order[torch.argsort(index[order], stable=True)]
        first_of_group = torch.searchsorted(index[order], index)
        rank = torch.empty_like(index).scatter_(0, order, torch.arange(len(index), device=index.device))
        rank = rank - first_of_group
        scored = torch.zeros_like(index).index_add(0, index, is_scored.to(index.dtype))[index]
        return is_scored & ((rank < self.k) | (rank >= scored - self.k))


@dataclass(frozen=True)
class AtLeast:
    """The samples with at least this reward, up to float32 rounding: in float32, 0.7 is a little less than 0.7."""

    reward: float
    baseline: Baseline = "group"

    def __post_init__(self) -> None:
        if not math.isfinite(self.reward):
            raise ValueError(f"the least reward of a sample must be a number, got {self.reward}")
        _check_baseline(self.baseline)

    def __call__(self, rewards: Tensor, group_ids: Tensor) -> Tensor:
        return rewards >= self.reward - REWARD_ROUNDINGS * FLOAT32 * abs(self.reward)


@dataclass(frozen=True)
class ErrorCorrection:
    """Guided error correction of EDGE-GRPO (arXiv 2507.21848): each wrong sample is corrected in a random way.

    reflect: share of wrong samples that the policy continues after a reflection prompt.
    answer: share to which the right answer is appended.
    solution: share that is replaced by a reference solution.
    """

    reflect: float = 0.5
    answer: float = 0.25
    solution: float = 0.25

    def __post_init__(self) -> None:
        shares = (self.reflect, self.answer, self.solution)
        if min(shares) < 0 or not 0 < sum(shares) <= 1 + 1e-9:
            raise ValueError(f"the shares of error correction must be at least 0 and sum to 1 or less, got {shares}")


@dataclass(frozen=True)
class RolloutSpec:
    """How samples are filtered, selected and corrected before the loss. By default they aren't.

    Attributes:
        dynamic_sampling: groups without reward variance are replaced by those of fresh prompts (DAPO, arXiv
            2503.14476, section 3.2); those that are left when the budget is spent are filtered out.
        overlong_buffer: share of max_completion_length over whose last tokens a penalty rises from 0 to 1, added to
            the reward (DAPO, eq. 13); 0 for none. It never makes a group informative.
        selection: which samples of a group are trained on; None for all.
        correction: how wrong samples are corrected; None for no correction.
        drop_zero_variance: groups without reward variance are filtered out, and not replaced. Dynamic sampling
            includes it.
    """

    dynamic_sampling: bool = False
    overlong_buffer: float = 0.0
    selection: Selection | None = None
    correction: ErrorCorrection | None = None
    drop_zero_variance: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlong_buffer <= 1:
            raise ValueError(f"overlong_buffer is a share of the length, 0 to 1, got {self.overlong_buffer}")

    @property
    def filters_equal_groups(self) -> bool:
        """Whether groups without reward variance are filtered out."""
        return self.dynamic_sampling or self.drop_zero_variance

    @property
    def filters_samples(self) -> bool:
        """Whether some of the samples may be filtered out."""
        return self.filters_equal_groups or self.selection is not None

    def is_kept(self, rewards: Tensor, group_ids: Tensor, rounding: Tensor | None = None) -> Tensor:
        """Which samples are kept for the loss.

        Args:
            rewards: (B,) without the overlong penalty, NaN where a sample couldn't be scored.
            group_ids: (B,) integers.
            rounding: (B,) which differences are rounding alone, see `has_variance`.

        Returns:
            (B,) booleans.
        """
        kept = torch.ones_like(rewards, dtype=torch.bool)
        if self.filters_equal_groups:
            kept = has_variance(rewards, group_ids, rounding)
        return kept if self.selection is None else kept & self.selection(rewards, group_ids)


def _check_baseline(baseline: str) -> None:
    if baseline not in (known := ("group", "selected")):
        meant = did_you_mean(str(baseline), known)
        raise ValueError(f"the baseline of a selection is {baseline!r}{meant}, it must be 'group' or 'selected'")
