"""The token preference f: the only place where methods differ in how much a response's tokens count.

A preference is a function (groups, λ) -> f (B,), pure and float64. `weights.response_weights` adds the conventions
that all of them share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lambda_grpo.objective.groups import Groups

H_FLOOR = 0.005  # below the least h of a group of 81 at r = 1/9, which is 1 − √80/9 = 0.0062
MAX_LOG_POWER = 700.0  # exp(700) is finite in float64, exp(710) is not


class Preference(Protocol):
    """How much each token of a response counts, from its group's lengths and λ (a float64 scalar)."""

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        """(B,) token preferences."""
        ...


def uniform(groups: Groups, lambda_: Tensor) -> Tensor:
    """f = 1: every token counts alike (DAPO, arXiv 2503.14476; Dr. GRPO, arXiv 2503.20783)."""
    return torch.ones_like(groups.lengths)


def inverse_length(groups: Groups, lambda_: Tensor) -> Tensor:
    """f = μ/|o|: every response counts alike (GRPO, arXiv 2402.03300)."""
    return groups.mean_length / groups.lengths


@dataclass(frozen=True)
class LambdaSoftmax:
    """f = G · softmax(h^λ), h = 1 + r·z: λ-GRPO, arXiv 2510.06870. Longer responses count more where λ > 0."""

    r: float = 1 / 9

    def __post_init__(self) -> None:
        if not self.r > 0:
            raise ValueError(f"r must be positive, got {self.r}")

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        log_h = positive_part(1 + self.r * groups.standardised_length).log()
        # clamp's gradient is 0 where it caps: it matches the value that is used
        return groups.softmax((lambda_ * log_h).clamp(max=MAX_LOG_POWER).exp())


def positive_part(h: Tensor) -> Tensor:
    """H where h >= H_FLOOR; below, c²/(2c − h): smooth, increasing and positive, so that a power of it exists.

    The paper's h = 1 + r·z can reach 0 for G > 81 at r = 1/9 (max |z| in a group is √(G−1)).
    """
    return torch.where(h >= H_FLOOR, h, H_FLOOR**2 / (2 * H_FLOOR - h.clamp(max=H_FLOOR)))
