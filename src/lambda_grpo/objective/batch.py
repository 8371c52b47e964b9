"""Stage 1 in an engine: a generated batch while its groups are still whole, over all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.weights import (
    effective_sample_size,
    is_saturated,
    lambda_penalty,
    loss_normalizer,
    mean_weights,
    response_weights,
)


@dataclass(frozen=True)
class GeneratedBatch:
    """N responses of one generation, on the CPU, since some devices lack float64.

    lengths: (N,) tokens that the policy generated.
    group_ids: (N,).
    advantages: (N,).
    is_kept: (N,) booleans. Responses that are filtered out have weights of 0, and count neither in a group's
        statistics nor in a normaliser.
    entropies, completion_ids, token_mask: (N, T) where the objective needs them.
    fixed_weights: (N,) or (N, T) f of an objective without λ, computed once.
    """

    lengths: Tensor
    group_ids: Tensor
    advantages: Tensor
    is_kept: Tensor
    entropies: Tensor | None = None
    completion_ids: Tensor | None = None
    token_mask: Tensor | None = None
    fixed_weights: Tensor | None = None

    @cached_property
    def kept(self) -> GeneratedBatch:
        """The batch without the responses that are filtered out."""
        if self.is_kept.all():
            return self
        columns: dict[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        kept: dict[str, Any] = {k: None if v is None else v[self.is_kept] for k, v in columns.items()}
        return GeneratedBatch(**kept)

    def weights(self, objective: Objective, lambda_: Tensor) -> Tensor:
        """(N,) or (N, T) f. Raises ValueError where one is below 0: it can't fold into an advantage."""
        kept = self.kept
        weights = response_weights(
            kept.lengths,
            kept.group_ids,
            objective,
            lambda_,
            advantages=kept.advantages,
            entropies=kept.entropies,
            completion_ids=kept.completion_ids,
            token_mask=kept.token_mask,
        )
        if (weights < 0).any():
            raise ValueError(f"objective {objective.name!r} gives weights below 0: they can't fold into advantages")
        if kept is self:
            return weights
        places = self.is_kept.nonzero()[:, 0]
        return weights.new_zeros(len(self.lengths), *weights.shape[1:]).index_add(0, places, weights)

    def normalizer(self, objective: Objective) -> Tensor:
        """(N,) Z of a whole batch, of an objective that divides by its groups' tokens; 1 where filtered out."""
        whole = loss_normalizer(self.kept.lengths, self.kept.group_ids, objective)
        return torch.ones_like(self.lengths, dtype=whole.dtype).masked_scatter(self.is_kept, whole)

    def penalty(self, objective: Objective, lambda_: Tensor) -> Tensor:
        """What the loss adds for λ itself."""
        kept = self.kept
        return lambda_penalty(kept.lengths, kept.group_ids, objective, lambda_, advantages=kept.advantages)

    def penalty_gradient(self, objective: Objective, lambda_: Tensor) -> Tensor:
        """d/dλ of the penalty, which an engine adds to λ's gradient once a step."""
        leaf = lambda_.detach().requires_grad_()
        penalty = self.penalty(objective, leaf)
        return torch.autograd.grad(penalty, leaf)[0] if penalty.requires_grad else torch.zeros_like(leaf)

    def counted(self, weights: Tensor) -> Tensor:
        """(N,) or (N, T) f -> those of the responses that are kept, or of their tokens, in one dimension."""
        kept, own = self.kept, weights[self.is_kept]
        return own if own.dim() == 1 or kept.token_mask is None else own[kept.token_mask.bool()]

    def weight_metrics(self, weights: Tensor) -> dict[str, float]:
        """Metrics of the weights: least and greatest of a token, effective sample size of a group. NaN if empty."""
        kept, own, tokens = self.kept, weights[self.is_kept], self.counted(weights)
        if len(tokens) == 0:
            return dict.fromkeys(("weight_min", "weight_max", "effective_sample_size"), math.nan)
        size = effective_sample_size(mean_weights(own, kept.lengths), kept.group_ids)
        return {
            "weight_min": tokens.min().item(),
            "weight_max": tokens.max().item(),
            "effective_sample_size": size.mean().item(),
        }

    def is_saturated(self, weights: Tensor) -> bool:
        """Whether one response has nearly all the weight in half of the groups."""
        own = mean_weights(weights[self.is_kept], self.kept.lengths)
        return is_saturated(own, self.kept.lengths, self.kept.group_ids)

    def informative_groups(self) -> float:
        """Share of the groups with an advantage other than 0: those that policy and λ can learn from."""
        informative = self.group_ids[self.is_kept & (self.advantages != 0)]
        return len(informative.unique()) / max(len(self.group_ids.unique()), 1)

    def mean_weights(self, weights: Tensor) -> Tensor:
        """(N,) the mean of f over each response's tokens, 0 where filtered out."""
        return torch.where(self.is_kept, mean_weights(weights, self.lengths), 0.0)


def lambda_metrics(lambda_: Tensor, gradient: Tensor) -> dict[str, float]:
    """Metrics of λ and dL/dλ: the means over several λ, and each λ as `lambda/1` …."""
    described = {"lambda": lambda_.mean().item(), "lambda_grad": gradient.mean().item()}
    if lambda_.dim() > 0:
        described |= {f"lambda/{k}": value for k, value in enumerate(lambda_.tolist(), start=1)}
    return described
