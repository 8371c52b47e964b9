"""Stage 1, part one: everything that is computed on whole groups, before an engine breaks them up.

Axes: B responses, P prompt groups of G. Members of a group share an integer id and need not be adjacent. Where they
are, and all groups have the same size, as engines generate them, a group is a row of a (P, G) view, and a sum over it
is one over that row; anything else is gathered by index. `Groups` hides which of the two it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ADVANTAGE_EPSILON = 1e-4  # TRL's
LENGTH_EPSILON = 1e-6
PART = 2**15  # responses whose temporaries a processor's cache holds


@dataclass(frozen=True)
class Groups:
    """Responses of whole prompt groups, as a preference sees them.

    All that is of a response has one shape, that of `lengths`: (P, G), or (B,) where groups aren't even rows. Sums and
    maxima broadcast against it. So a preference is written for one response and holds for all.

    lengths: float64 tokens that the policy generated, before truncation masking.
    index: (B,) group of each response, 0 .. count - 1; None where groups are the rows.
    count: P.
    advantages: of each response, and entropies, completion_ids: of each token, with T as one more axis, for an
        objective that names them in its `needs`.
    """

    lengths: Tensor
    index: Tensor | None
    count: int
    advantages: Tensor | None = None
    entropies: Tensor | None = None
    completion_ids: Tensor | None = None

    @classmethod
    def of(cls, lengths: Tensor, group_ids: Tensor, **given: Tensor | None) -> Groups:
        """Groups from (B,) lengths and (B,) arbitrary integer ids. Raises ValueError on shapes that differ."""
        if lengths.dim() != 1 or lengths.shape != group_ids.shape:
            raise ValueError(
                "lengths and group_ids must both have shape (B,), "
                f"got {tuple(lengths.shape)} and {tuple(group_ids.shape)}"
            )
        lengths = lengths.detach().double()
        size = _row_size(group_ids)
        if size is None:
            ids, index = torch.unique(group_ids, return_inverse=True)
            return cls(lengths, index.to(lengths.device), len(ids), **given)
        rows = {name: None if x is None else x.unflatten(0, (-1, size)) for name, x in given.items()}
        return cls(lengths.view(-1, size), None, len(lengths) // size, **rows)

    def parts(self) -> list[Groups]:
        """The lengths of some groups at a time: many small temporaries are several times as fast as few large ones."""
        if self.index is not None or self.lengths.numel() <= PART:
            return [self]
        rows = max(PART // self.lengths.size(1), 1)
        return [Groups(lengths, None, len(lengths)) for lengths in self.lengths.split(rows)]

    def arrange(self, values: Tensor) -> Tensor:
        """(B,) -> the shape of `lengths`."""
        return values.view(self.lengths.shape)

    def flat(self, values: Tensor) -> Tensor:
        """The shape of `lengths`, or one that broadcasts to it -> (B,)."""
        return (values if values.shape == self.lengths.shape else values.expand(self.lengths.shape)).reshape(-1)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over each response's group."""
        if self.index is None:
            return values.expand(self.lengths.shape).sum(1, keepdim=True)
        return values.new_zeros(self.count).index_add(0, self.index, values)[self.index]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each response's group."""
        return values.mean(1, keepdim=True) if self.index is None else self.sum(values) / self.size

    def max(self, values: Tensor) -> Tensor:
        """The maximum over each response's group."""
        if self.index is None:
            return values.expand(self.lengths.shape).amax(1, keepdim=True)
        return values.new_zeros(self.count).scatter_reduce(0, self.index, values, "amax", include_self=False)[
            self.index
        ]

    def one_of_each(self, values: Tensor) -> Tensor:
        """(P,): what `sum`, `max` and the like gave, once for each group, in the order of the sorted ids."""
        if self.index is None:
            return values.expand(self.count, 1).squeeze(1)
        rows = torch.arange(len(self.index), device=self.index.device)
        return values[torch.zeros_like(rows[: self.count]).scatter(0, self.index, rows)]

    @cached_property
    def size(self) -> Tensor:
        """G, the number of responses in each response's group."""
        if self.index is None:
            return self.lengths.new_full((self.count, 1), self.lengths.size(1))
        return self.sum(torch.ones_like(self.lengths))

    @cached_property
    def total_length(self) -> Tensor:
        """Σ|o| of each response's group."""
        return self.sum(self.lengths)

    @cached_property
    def mean_length(self) -> Tensor:
        """μ of each response's group."""
        return self.mean(self.lengths)

    @cached_property
    def standardised_length(self) -> Tensor:
        """z = (|o| − μ) / (σ + ε), σ the population standard deviation over the group."""
        deviation = self.lengths - self.mean_length
        return deviation.div_(self.mean(deviation.square()).sqrt_().add_(LENGTH_EPSILON))

    def softmax(self, values: Tensor) -> Tensor:
        """G · softmax over each group. Exactly 1 where a group's values are equal."""
        weights = (values - self.max(values.detach())).exp()
        return weights / self.mean(weights)


def _row_size(group_ids: Tensor) -> int | None:
    """G where the groups are adjacent, in ascending order and of one size, None otherwise."""
    if len(group_ids) == 0:
        return None
    size = int(torch.searchsorted(group_ids.contiguous(), group_ids[0], right=True))  # if they ascend
    if size == 0 or len(group_ids) % size != 0:
        return None
    rows = group_ids.view(-1, size)
    first = rows[:, 0]
    is_even = bool((rows == first[:, None]).all()) and bool((first[1:] > first[:-1]).all())
    return size if is_even else None


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
    size = _row_size(group_ids)
    if size is not None and scale != "batch" and len(rewards) > PART >= size:  # see Groups.parts
        rows = PART // size * size
        pieces = zip(rewards.split(rows), group_ids.split(rows), strict=True)
        return torch.cat([group_advantages(own, ids, scale) for own, ids in pieces])
    groups = Groups.of(rewards, group_ids)
    is_scored = groups.arrange((~rewards.isnan()).to(rewards.dtype))
    known = groups.arrange(rewards.nan_to_num(0.0))
    count = groups.sum(is_scored)
    deviation = (known - groups.sum(known) / count.clamp(min=1)) * is_scored
    if scale == "none":
        return deviation.reshape(-1)
    if scale == "group":
        variance = groups.sum(deviation.square()) / (count - 1).clamp(min=1)
    else:
        squares = (known - known.sum() / is_scored.sum().clamp(min=1)).square() * is_scored
        variance = squares.sum() / (is_scored.sum() - 1).clamp(min=1)
    return (deviation / (variance.sqrt() + ADVANTAGE_EPSILON)).reshape(-1)
