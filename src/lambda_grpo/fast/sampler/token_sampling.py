"""Sampling a token for each sequence from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo.fast.native import address, is_available, library

NO_DISTRIBUTION = "the policy's logits are NaN, or all −∞: no token can be sampled. Has training diverged?"


def sample_tokens(logits: Tensor, greedy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a token from each distribution with torch's random numbers, or take the likeliest ones if `greedy`.

    Args:
        logits: (n, V); −∞ for tokens that are excluded.

    Returns:
        (n,) tokens, their log-probabilities, and the entropies of their distributions, in nats.

    Raises:
        ValueError: logits are NaN, or all of a sequence's are −∞.
    """
    u = None if greedy else 1 - torch.rand(len(logits), dtype=torch.float64, device=logits.device)  # 0 < u ≤ 1
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and is_native_available():
        return _sample_native(logits, u)
    return _sample_torch(logits.float(), u)


def is_native_available() -> bool:
    """Whether native code can be used for sampling; if not, warns once."""
    return is_available("sampling uses PyTorch instead of native code")


def _sample_torch(logits: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    if p.isnan().any():
        raise ValueError(NO_DISTRIBUTION)
    if u is None:
        chosen = log_p.argmax(-1, keepdim=True)
    else:  # inverse transform sampling: never a token with probability 0
        sums = p.cumsum(-1, dtype=torch.float64)
        chosen = torch.searchsorted(sums, u[:, None] * sums[:, -1:])
    least = torch.finfo(log_p.dtype).min  # where 0 · log 0 = 0 would be NaN
    return chosen[:, 0], log_p.gather(1, chosen)[:, 0], -(p * log_p.clamp_min(least)).sum(-1)


def _sample_native(logits: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    n, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    tokens = torch.empty(n, dtype=torch.long)
    logprobs, entropies = torch.empty(n), torch.empty(n)
    broken = library().lgrpo_sample_tokens(
        n, vocabulary, logits.stride(0), address(logits), None if u is None else address(u),
        address(tokens), address(logprobs), address(entropies),
    )  # fmt: skip
    if broken:
        raise ValueError(NO_DISTRIBUTION)
    return tokens, logprobs, entropies
