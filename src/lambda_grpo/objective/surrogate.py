"""Stage 2, part one: the surrogate s_it of each token, and the penalty against the reference policy."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's surrogate, min(ρA, clip(ρ, 1 − ε, 1 + ε_high) A) (arXiv 1707.06347, eq. 7).

    Args:
        log_ratio: (B, T) log ρ.
        advantages: (B, 1) or (B, T).

    Returns:
        (B, T) surrogate, and (B, T) whether the clip holds the ratio back.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    is_clipped = ((ratio < 1 - epsilon) & (advantages < 0)) | ((ratio > 1 + epsilon_high) & (advantages > 0))
    return torch.min(ratio * advantages, clipped * advantages), is_clipped


def reference_kl(per_token_logps: Tensor, ref_per_token_logps: Tensor) -> Tensor:
    """e^d − d − 1 with d = log π_ref − log π: an unbiased estimate of KL(π ‖ π_ref) (arXiv 2402.03300, eq. 4)."""
    difference = ref_per_token_logps - per_token_logps
    return difference.exp() - difference - 1
