"""The weights folded into verl's advantages: stage 1 on whole groups, on the driver, before verl splits the batch.

A token preference folds into the advantages, and so does the ratio of the objective's normaliser to that of verl's
loss, which is the tokens of the batch. verl holds a batch as jagged tensors: B responses one after the other, without
padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lambda_grpo.objective import Objective, loss_normalizer
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.objective.groups import ADVANTAGE_EPSILON, Groups


@dataclass(frozen=True)
class FoldedBatch:
    """A batch with its weights.

    advantages: (B, jagged) f · A · Z of verl's loss / Z of the objective; 0 in groups of equal rewards.
    slope: (B, K) ∂ln f/∂λ for each of the K λ, float64; None for an objective without λ.
    verl_z: tokens of the whole batch, by which advantages were multiplied; None if the objective divides by them, too.
    """

    batch: GeneratedBatch
    weights: Tensor
    advantages: Tensor
    slope: Tensor | None
    verl_z: float | None


def fold(
    advantages: Tensor,
    mask: Tensor,
    uids: Sequence[str],
    is_kept: Tensor,
    objective: Objective,
    lambda_: Tensor,
    *,
    rewards: Tensor | None = None,
    completion_ids: Tensor | None = None,
    max_completion_length: int,
) -> FoldedBatch:
    """Fold an objective's weights and normaliser into advantages.

    Args:
        advantages: (B, jagged) verl's, the same for all tokens of a response.
        mask: (B, jagged) 1 for tokens that the policy generated, before any are rejected.
        uids: of each response's prompt.
        is_kept: (B,) booleans, False for padding responses. For an objective with a λ per pass rate, groups of another
            size are filtered out, too.
        objective: one that `settings.check_objective` accepts.
        lambda_: λ, a leaf that requires a gradient if the objective is learnable.
        rewards: (B, jagged), needed if the advantage is divided by their standard deviation.
        completion_ids: (B, jagged), if the preference needs them.
        max_completion_length: tokens that a response may have.
    """
    offsets: Tensor = advantages.offsets()  # type: ignore[attr-defined]  # of jagged tensors
    row = torch.repeat_interleave(offsets.diff())  # (tokens,)
    lengths = _row_sums(mask.values(), offsets)
    group_ids = torch.tensor(_group_ids(uids))
    advantages = _zero_where_rewards_are_equal(advantages, group_ids)
    of_response = torch.zeros_like(lengths)
    if "advantages" in objective.preference.needs:
        of_response = _row_sums(advantages.values() * mask.values(), offsets) / lengths.clamp(min=1)
    if lambda_.dim() > 0:  # a λ per pass rate of complete groups: an incomplete group has none
        members = torch.bincount(group_ids[is_kept], minlength=len(group_ids))[group_ids]
        is_kept = is_kept & (members == len(lambda_) + 1)
    tokens = {}
    if completion_ids is not None:
        tokens = {"completion_ids": _padded(completion_ids, row), "token_mask": _padded(mask, row)}
    batch = GeneratedBatch(lengths, group_ids, of_response, is_kept, **tokens)
    weights = batch.weights(objective, lambda_)
    slope = _slope(weights, lambda_) if objective.preference.learnable else None
    weights = weights.detach()

    scale, verl_z = torch.ones_like(lengths), None
    if objective.normalizer != "batch":
        kept = batch.kept
        verl_z = kept.lengths.sum().item()
        objective_z = loss_normalizer(
            kept.lengths, kept.group_ids, objective, max_completion_length=max_completion_length
        )
        scale = scale.masked_scatter(is_kept, verl_z / objective_z)
    if objective.advantage_scale == "batch":
        assert rewards is not None  # of every response
        own = _row_sums(rewards.values(), offsets)[is_kept]
        deviation = torch.linalg.vector_norm(own - own.mean()) / max(len(own) - 1, 1) ** 0.5
        scale = scale / (deviation + ADVANTAGE_EPSILON)
    factor = (weights * scale)[row] if weights.dim() == 1 else weights[row, _positions(offsets, row)] * scale[row]
    folded = torch.nested.nested_tensor_from_jagged(advantages.values() * factor.to(advantages.dtype), offsets)
    return FoldedBatch(batch, weights, folded, slope, verl_z)


def _zero_where_rewards_are_equal(advantages: Tensor, group_ids: Tensor) -> Tensor:
    """(B, jagged) -> the same with exactly 0 in each group of equal rewards.

    verl's float32 mean of equal rewards may have a rounding error, which verl then divides by 1e-6. Rewards are equal
    where advantages are. A group of one response keeps verl's advantage, which is its reward, and so does a group with
    a response whose tokens verl's rejection sampling has all masked: its advantage isn't known here.
    """
    offsets: Tensor = advantages.offsets()  # type: ignore[attr-defined]  # of jagged tensors
    values = advantages.values().double()
    high, low = (torch.segment_reduce(values, reduce, offsets=offsets) for reduce in ("max", "min"))
    of_response = torch.where(high > 0, high, low)  # tokens that aren't the policy's have 0
    groups = Groups.of(of_response, group_ids)
    is_equal = (groups.max(of_response) == -groups.max(-of_response)) & (groups.size > 1)
    row = torch.repeat_interleave(offsets.diff())
    return torch.nested.nested_tensor_from_jagged(advantages.values().masked_fill(is_equal[row], 0.0), offsets)


def _positions(offsets: Tensor, row: Tensor) -> Tensor:
    """(tokens,) position of each token in its response."""
    return torch.arange(len(row)) - offsets[row]


def _padded(jagged: Tensor, row: Tensor) -> Tensor:
    """(B, jagged) -> (B, T)."""
    offsets: Tensor = jagged.offsets()  # type: ignore[attr-defined]
    whole = jagged.values().new_zeros(len(offsets) - 1, int(offsets.diff().max()))
    return whole.index_put((row, _positions(offsets, row)), jagged.values())


def _row_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """(tokens,) -> (B,) float64."""
    return torch.segment_reduce(values.double(), "sum", offsets=offsets)


def _group_ids(uids: Sequence[str]) -> list[int]:
    numbers: dict[str, int] = {}
    return [numbers.setdefault(uid, len(numbers)) for uid in uids]


def _slope(weights: Tensor, lambda_: Tensor) -> Tensor:
    """(B, K) ∂ln f/∂λ, 0 where f is 0.

    Autograd gives the derivative of Σ u·f over the responses by λ. It is linear in u, so its own derivative by u is
    ∂f/∂λ of each response.
    """
    u = torch.ones_like(weights, requires_grad=True)
    (total,) = torch.autograd.grad((weights * u).sum(), lambda_, create_graph=True)
    each = [torch.autograd.grad(value, u, retain_graph=True)[0] for value in total.reshape(-1)]
    positive = weights.detach() > 0
    return torch.stack([torch.where(positive, value / weights.detach(), 0.0) for value in each], dim=1)
