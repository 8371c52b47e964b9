"""Stage 1, part one: everything that is computed on whole groups, before an engine breaks them up.

Axes: B responses, P prompt groups of G. Members of a group share an integer id and need not be adjacent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lambda_grpo.suggestions import did_you_mean

ADVANTAGE_EPSILON = 1e-4  # TRL's
LENGTH_EPSILON = 1e-6
SCALES = ("group", "batch", "none")
FLOAT32 = torch.finfo(torch.float32).eps
REWARD_ROUNDINGS = 4  # how many float errors of its size a reward may be off: those of a weighted sum of two


@dataclass(frozen=True)
class Groups:
    """Responses of whole prompt groups: the input of a preference. Statistics are (B,): each response's group's.

    lengths: (B,) float64 tokens that the policy generated, before truncation masking.
    index: (B,) group of each response, 0 .. count - 1; None where the groups are the rows of a (P, G) view, as
        engines generate them: a sum over a group is then one over a row, which is faster
        (docs/performance.md, `group_rows`).
    count: P.
    advantages: (B,), and entropies, completion_ids: (B, T), for an objective that names them in its `needs`.
    token_mask: (B, T) booleans, where the last two hold tokens that the policy generated; None without them.
    """

    lengths: Tensor
    index: Tensor | None
    count: int
    advantages: Tensor | None = None
    entropies: Tensor | None = None
    completion_ids: Tensor | None = None
    token_mask: Tensor | None = None

    @classmethod
    def of(cls, lengths: Tensor, group_ids: Tensor, **given: Tensor | None) -> Groups:
        """Groups from (B,) lengths and (B,) arbitrary integer ids. Raises ValueError on shapes that differ.

        given: the fields above that an objective needs; without a token_mask a response's tokens are its first |o|.
        """
        if lengths.dim() != 1 or lengths.shape != group_ids.shape:
            raise ValueError(
                "lengths and group_ids must both have shape (B,), "
                f"got {tuple(lengths.shape)} and {tuple(group_ids.shape)}"
            )
        given = _checked(lengths, given)
        lengths = lengths.detach().double()
        size = _row_size(group_ids)
        if size is not None:
            return cls(lengths, None, len(lengths) // size, **given)
        ids, index = torch.unique(group_ids, return_inverse=True)
        return cls(lengths, index.to(lengths.device), len(ids), **given)

    def sum(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): the sum over each response's group."""
        return self._flat(self._sum(self._rows(values)))

    def mean(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): the mean over each response's group."""
        return self._flat(self._mean(self._rows(values)))

    def max(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): the maximum over each response's group."""
        return self._flat(self._max(self._rows(values)))

    def per_group(self, values: Tensor) -> Tensor:
        """(B,) of one value a group, as `sum` gives -> (P,), in the order of the sorted ids."""
        if self.index is None:
            return values.view(self.count, -1)[:, 0]
        rows = torch.arange(len(self.index), device=self.index.device)
        return values[torch.zeros_like(rows[: self.count]).scatter(0, self.index, rows)]

    @property
    def group_index(self) -> Tensor:
        """(B,) the group of each response, 0 .. count - 1. A new tensor each time."""
        if self.index is not None:
            return self.index.clone()
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return rows // (len(self.lengths) // self.count)

    @cached_property
    def size(self) -> Tensor:
        """(B,): G, the number of responses in each response's group."""
        return self.sum(torch.ones_like(self.lengths))

    @cached_property
    def total_length(self) -> Tensor:
        """(B,): Σ|o| of each response's group."""
        return self.sum(self.lengths)

    @cached_property
    def mean_length(self) -> Tensor:
        """(B,): μ of each response's group."""
        return self.mean(self.lengths)

    @property
    def standardised_length(self) -> Tensor:
        """(B,): z = (|o| − μ) / (σ + ε), σ the population standard deviation over the group. A new tensor each time."""
        lengths = self._rows(self.lengths)
        deviation = lengths - self._mean(lengths)
        sigma = (self._sum_of_squares(deviation) / self._size).sqrt_()
        return self._flat(deviation.div_(sigma.add_(LENGTH_EPSILON)))

    def softmax(self, values: Tensor) -> Tensor:
        """(B,) -> (B,): G · softmax over each group. Exactly 1 where a group's values are equal."""
        values = self._rows(values)
        weights = (values - self._max(values.detach())).exp_()
        return self._flat(weights / self._mean(weights))

    def softmax_(self, values: Tensor) -> Tensor:
        """The same in the place of `values`, without autograd: at a million responses fresh memory is what costs."""
        rows = self._rows(values)
        rows.sub_(self._max(rows)).exp_()
        rows.div_(self._mean(rows))
        return values

    # Within: (P, G) with (P, 1) for what a group has one of, or (B,) for both where groups aren't rows.

    def _rows(self, values: Tensor) -> Tensor:
        return values.view(self.count, -1) if self.index is None else values

    def _flat(self, values: Tensor) -> Tensor:
        if self.index is None and values.size(1) == 1:
            values = values.expand(self.count, len(self.lengths) // self.count)
        return values.reshape(-1)

    def _sum(self, values: Tensor) -> Tensor:
        if self.index is None:
            return values.sum(1, keepdim=True)
        return values.new_zeros(self.count).index_add(0, self.index, values)[self.index]

    def _sum_of_squares(self, values: Tensor) -> Tensor:
        if self.index is None:
            return torch.linalg.vector_norm(values, dim=1, keepdim=True).square_()  # without a copy of all squares
        return self._sum(values.square())

    def _mean(self, values: Tensor) -> Tensor:
        return self._sum(values) / self._size

    @property
    def _size(self) -> Tensor | int:
        return self.size if self.index is not None else len(self.lengths) // self.count

    def _max(self, values: Tensor) -> Tensor:
        return self._of_rows(self._extreme(values, "amax"))

    # One value a group: (P, 1), or (P,) where groups aren't rows.

    def _extreme(self, values: Tensor, which: str) -> Tensor:
        if self.index is None:
            return values.amax(1, keepdim=True) if which == "amax" else values.amin(1, keepdim=True)
        return values.new_zeros(self.count).scatter_reduce(0, self.index, values, which, include_self=False)

    def _of_rows(self, of_group: Tensor) -> Tensor:
        return of_group if self.index is None else of_group[self.index]


def _checked(lengths: Tensor, given: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """What an objective needs, its shapes checked and the mask of its tokens made where there is none."""
    per_token = [value for name in ("entropies", "completion_ids") if (value := given.get(name)) is not None]
    mask = given.get("token_mask")
    if not per_token:
        given = {**given, "token_mask": None}
    else:
        positions = torch.arange(per_token[0].size(-1), device=lengths.device)
        given = {**given, "token_mask": positions < lengths[:, None] if mask is None else mask.bool()}
    width = per_token[0].shape[1:] if per_token else ()
    for name, value in given.items():
        shape = tuple(lengths.shape) if name == "advantages" else (*lengths.shape, *width)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    return given


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


def has_variance(rewards: Tensor, group_ids: Tensor, rounding: Tensor | None = None) -> Tensor:
    """Whether the rewards of each response's group differ by more than rounding: DAPO's 0 < right answers < G.

    Args:
        rewards: (B,), NaN where a response couldn't be scored: it is left out.
        group_ids: (B,) integers.
        rounding: (B,) the difference that rounding explains, of which a group takes its greatest. Default: 4 float
            errors of the group's greatest |R|, of the rewards' dtype, at most float32's.

    Returns:
        (B,) booleans.

    Raises:
        ValueError: shapes differ.
    """
    rewards, groups = _reward_groups(rewards, group_ids)
    known = groups._rows(rewards)
    return groups._flat(groups._of_rows(_differ(groups, known, ~known.isnan(), rounding)))


def group_advantages(
    rewards: Tensor, group_ids: Tensor, scale: str = "group", *, rounding: Tensor | None = None
) -> Tensor:
    """Group-relative advantages: (R − mean of the group) / (std + 1e-4), exactly 0 where a group's rewards are equal.

    GRPO (arXiv 2402.03300), with TRL's conventions: sample standard deviation, ε = 1e-4. A reward of NaN ("could not
    be scored", TRL's None) is left out of every statistic, and its advantage is 0.

    Args:
        rewards: (B,).
        group_ids: (B,) integers.
        scale: "group" divides by the group's std, "batch" by that of all rewards (Lite-PPO, arXiv 2508.08221),
            "none" doesn't divide (Dr. GRPO, arXiv 2503.20783).
        rounding: (B,) which differences are rounding alone, see `has_variance`.

    Returns:
        (B,) advantages in the rewards' floating dtype.

    Raises:
        ValueError: shapes differ, or the scale is unknown.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown advantage scale {scale!r}{did_you_mean(scale, SCALES)}: use {', '.join(SCALES)}")
    rewards, groups = _reward_groups(rewards, group_ids)
    known = groups._rows(rewards)
    is_scored, count = ~known.isnan(), torch.as_tensor(groups._size, dtype=rewards.dtype, device=rewards.device)
    differs = _differ(groups, known, is_scored, rounding)
    if not is_scored.all():
        known, count = known.nan_to_num(0.0), groups._sum(is_scored.to(rewards.dtype))
    deviation = known - groups._sum(known) / count.clamp(min=1)
    if not is_scored.all():
        deviation.mul_(is_scored)
    if not differs.all():
        # a float mean of equal rewards may be off by rounding, and Adam makes whole steps of what would be left
        deviation.masked_fill_(~groups._of_rows(differs), 0.0)
    if scale == "none":
        return deviation.reshape(-1)
    if scale == "group":
        variance = groups._sum_of_squares(deviation) / (count - 1).clamp(min=1)
    else:
        squares = (known - known.sum() / is_scored.sum().clamp(min=1)).square() * is_scored
        variance = squares.sum() / (is_scored.sum() - 1).clamp(min=1)
    return deviation.div_(variance.sqrt() + ADVANTAGE_EPSILON).reshape(-1)


def _reward_groups(rewards: Tensor, group_ids: Tensor) -> tuple[Tensor, Groups]:
    """Rewards as floats, and their groups."""
    if rewards.dim() != 1 or rewards.shape != group_ids.shape:
        raise ValueError(
            f"rewards and group_ids must both have shape (B,), got {tuple(rewards.shape)} and {tuple(group_ids.shape)}"
        )
    rewards = rewards if rewards.is_floating_point() else rewards.to(torch.get_default_dtype())
    return rewards, Groups.of(rewards, group_ids)


def _differ(groups: Groups, rewards: Tensor, is_scored: Tensor, rounding: Tensor | None) -> Tensor:
    """`has_variance` of each group, from its rows."""
    high = low = rewards
    if not is_scored.all():
        high, low = rewards.masked_fill(~is_scored, -torch.inf), rewards.masked_fill(~is_scored, torch.inf)
    high, low = groups._extreme(high, "amax"), groups._extreme(low, "amin")
    if rounding is None:
        limit = REWARD_ROUNDINGS * min(torch.finfo(rewards.dtype).eps, FLOAT32) * torch.maximum(high.abs(), low.abs())
    else:
        limit = groups._extreme(groups._rows(rounding).masked_fill(~is_scored, 0.0), "amax")
    return high - low > limit
