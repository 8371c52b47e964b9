"""f of a part's samples: each step is a batch, and all of them are computed at once where f allows that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lambda_grpo.inspection.part import Part
from lambda_grpo.inspection.samples import Array
from lambda_grpo.objective import Objective, response_weights
from lambda_grpo.objective.preferences import InverseLengthPower, PassRateWeights


def weights(part: Part, objective: Objective) -> Tensor:
    """(n,) f of an objective at its starting λ, if it has one."""
    lengths, ids, advantages = part.lengths, part.ids, part.advantages(objective)
    preference = objective.preference
    if isinstance(preference, PassRateWeights):
        return torch.from_numpy(PassRates.of(part, objective).weights)
    if isinstance(preference, InverseLengthPower) and objective.weight_norm == "sum":
        return _over_means_of_steps(part, response_weights(lengths, ids, objective))
    batches = part.rows() if preference.reads_batch else part.pieces()
    return torch.cat([response_weights(lengths[r], ids[r], objective, advantages=advantages[r]) for r in batches])


def _over_means_of_steps(part: Part, f: Tensor) -> Tensor:
    """(n,) f over its mean in each step, of an f over its mean in the whole part. Empty responses stay at 1."""
    has_tokens = part.samples.length > 0
    total = part.step_sums(np.where(has_tokens, f.numpy(), 0.0))
    scale = part.step_sizes / np.maximum(total, 1e-300)
    return torch.from_numpy(np.where(has_tokens, f.numpy() * part.of_steps(scale), 1.0))


@dataclass(frozen=True)
class PassRates:
    """DARO's f at λ = 0, and which λ weighs each group.

    weights: (n,) P·N / N_k of each sample's group in its step, 1 where the group isn't mixed or the response is empty.
    right: (P,) right answers of each group.
    is_mixed: (P,) whether it has both right and wrong ones.
    """

    weights: Array
    right: Array
    is_mixed: Array

    @classmethod
    def of(cls, part: Part, objective: Objective) -> PassRates:
        """Of a part's groups."""
        right = part.group_sums((part.advantages(objective).numpy() > 0).astype(np.int64))
        is_mixed = (right > 0) & (right < part.samples.group_size)
        tokens = part.group_sums(part.samples.length)
        alike = part.group_step * (right.max() + 1) + right  # groups of one step with one number of right answers
        share = part.step_groups[part.group_step] * tokens / np.maximum(np.bincount(alike, tokens)[alike], 1)
        f = part.of_groups(np.where(is_mixed, share, 1.0))
        return cls(np.where(part.samples.length > 0, f, 1.0), right, is_mixed)

    def at(self, path: Array, part: Part) -> Array:
        """(n,) f at the λ of each step: path, (S, K)."""
        factor = np.exp(path[part.group_step, np.where(self.is_mixed, self.right - 1, 0)])
        factor = part.of_groups(np.where(self.is_mixed, factor, 1.0))
        return np.where(part.samples.length > 0, self.weights * factor, 1.0)
