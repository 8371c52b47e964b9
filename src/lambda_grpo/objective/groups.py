"""Stage 1, part one: everything that is computed on whole groups, before an engine breaks them up.

Axes: B responses, P prompt groups. Members of a group share an integer id and need not be adjacent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ADVANTAGE_EPSILON = 1e-4  # TRL's
LENGTH_EPSILON = 1e-6


@dataclass(frozen=True)
class Groups:
    """Responses of whole prompt groups, as a preference sees them. All statistics are float64.

    lengths: (B,) tokens that the policy generated, before truncation masking.
    index: (B,) group of each response, 0 .. count - 1.
    count: P.
    advantages: (B,), and entropies, completion_ids: (B, T), for an objective that names them in its `needs`.
    """

    lengths: Tensor
    index: Tensor
    count: int
    advantages: Tensor | None = None
    entropies: Tensor | None = None
    completion_ids: Tensor | None = None

    @classmethod
    def of(cls, lengths: Tensor, group_ids: Tensor, **tokens: Tensor | None) -> Groups:
        """Groups from (B,) lengths and (B,) arbitrary integer ids. Raises ValueError on shapes that differ."""
        if lengths.dim() != 1 or lengths.shape != group_ids.shape:
            raise ValueError(
                "lengths and group_ids must both have shape (B,), "
                f"got {tuple(lengths.shape)} and {tuple(group_ids.shape)}"
            )
        ids, index = torch.unique(group_ids, return_inverse=True)
        return cls(lengths.detach().double(), index.to(lengths.device), len(ids), **tokens)

    def sum(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): the sum over each response's group."""
        return values.new_zeros(self.count).index_add(0, self.index, values)[self.index]

    def max(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): the maximum over each response's group."""
        return values.new_zeros(self.count).scatter_reduce(0, self.index, values, "amax", include_self=False)[
            self.index
        ]

    @cached_property
    def size(self) -> Tensor:
        """(B,): G, the number of responses in each response's group."""
        return self.sum(torch.ones_like(self.lengths))

    @cached_property
    def mean_length(self) -> Tensor:
        """(B,): μ of each response's group."""
        return self.sum(self.lengths) / self.size

    @cached_property
    def standardised_length(self) -> Tensor:
        """(B,): z = (|o| − μ) / (σ + ε), σ the population standard deviation over the group."""
        deviation = self.lengths - self.mean_length
        return deviation / ((self.sum(deviation**2) / self.size).sqrt() + LENGTH_EPSILON)

    def softmax(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): G · softmax over each group. Exactly 1 where a group's values are equal."""
        weights = (values - self.max(values.detach())).exp()
        return weights / (self.sum(weights) / self.size)


def group_advantages(rewards: Tensor, group_ids: Tensor, scale: str = "group") -> Tensor:
    """Group-relative advantages: (R − mean of the group) / (std + 1e-4).

    GRPO (arXiv 2402.03300), with TRL's conventions: sample standard deviation, ε = 1e-4. A reward of NaN ("could not
    be scored", TRL's None) is left out of every statistic, and its advantage is 0.

    Args:
        rewards: (B,).
        group_ids: (B,) integers.
        scale: "group" divides by the group's std, "batch" by that of all rewards (Lite-PPO, arXiv 2508.08221),
            "none" doesn't divide (Dr. GRPO, arXiv 2503.20783).

    Returns:
        (B,) advantages in the rewards' floating dtype.

    Raises:
        ValueError: shapes differ, or the scale is unknown.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"unknown advantage scale {scale!r}: use 'group', 'batch' or 'none'")
    if rewards.dim() != 1 or rewards.shape != group_ids.shape:
        raise ValueError(
            f"rewards and group_ids must both have shape (B,), got {tuple(rewards.shape)} and {tuple(group_ids.shape)}"
        )
    rewards = rewards if rewards.is_floating_point() else rewards.to(torch.get_default_dtype())
    groups = Groups.of(torch.zeros_like(rewards), group_ids)
    scored = ~rewards.isnan()
    known = rewards.nan_to_num(0.0)
    count = groups.sum(scored.to(rewards.dtype))
    deviation = torch.where(scored, known - groups.sum(known) / count.clamp(min=1), 0.0)
    if scale == "none":
        return deviation
    if scale == "group":
        variance = groups.sum(deviation**2) / (count - 1).clamp(min=1)
    else:
        overall = (known.sum() / scored.sum().clamp(min=1)).expand_as(rewards)
        squares = torch.where(scored, (known - overall) ** 2, 0.0)
        variance = (squares.sum() / (scored.sum() - 1).clamp(min=1)).expand_as(rewards)
    return deviation / (variance.sqrt() + ADVANTAGE_EPSILON)
