"""Preferences that differ between the tokens of a response: f_it, (B, T) float64, 0 where there is no token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lambda_grpo.objective.groups import Groups
from lambda_grpo.objective.preferences import Preference
from lambda_grpo.objective.traces import check_decay


@dataclass(frozen=True)
class SharedPrefix(Preference):
    """f_it = 1/n_it, n_it the number of the group's responses with the same tokens up to and including t.

    λ-GRPO as a process reward model (arXiv 2509.21154, Σ 1/|λ^(i,t)|, as its authors' code has it): a prefix that
    responses share is a step of the process, and counts once however many responses share it.

    The group's trie is built level by level from the responses that still share their prefix with another one: each
    token is read at most once, and those after the last fork aren't read.
    """

    needs = ("completion_ids",)
    per_token = True

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        ids, mask = groups.completion_ids, groups.token_mask
        assert ids is not None  # in `needs`
        assert mask is not None
        # a tool's output is no token of the policy, but it is part of a prefix
        ends = torch.where(mask, torch.arange(1, mask.size(1) + 1, device=mask.device), 0).amax(1, keepdim=True)
        weights = mask.double()
        ids = ids.long() - ids.min() if ids.numel() > 0 else ids
        symbols = int(ids.max()) + 1 if ids.numel() > 0 else 1
        node = groups.group_index  # in the trie: the root is the group
        rows = torch.arange(len(ids), device=ids.device)
        for t in range(ids.size(1)):
            rows = rows[ends[rows, 0] > t]
            _, child, count = torch.unique(node[rows] * symbols + ids[rows, t], return_inverse=True, return_counts=True)
            weights[rows, t] /= count[child]
            node[rows] = child
            rows = rows[count[child] > 1]
            if len(rows) < 2:
                break
        return weights


@dataclass(frozen=True)
class TailDecay(Preference):
    """f_it = (γλ_trace)^(|o|−1−t): advantages that decay from the last token back to the first.

    A simple public port of GRPO-λ (arXiv 2510.00194). It is GAE with a reward at the last token only, not the paper's
    traces, which favour early tokens: see `surrogates.TracedClip`.
    """

    needs = ("completion_ids",)
    per_token = True

    gamma: float = 1.0
    lambda_trace: float = 0.99

    def __post_init__(self) -> None:
        check_decay(self.gamma, self.lambda_trace)

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        assert groups.token_mask is not None  # completion_ids are in `needs`
        after = groups.token_mask.flip(1).cumsum(1).flip(1) - 1  # tokens of the policy behind this one
        decay = (self.gamma * self.lambda_trace) ** after.double()
        return torch.where(groups.token_mask, decay, 0.0)
