"""Drawing a token for each row from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo.fast.native import address, is_available, library

NO_DISTRIBUTION = "the policy's logits are NaN, or all −∞: there is no token to draw. Has training diverged?"


def choose(logits: Tensor, greedy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, by their probabilities or the likeliest ones, in torch's random numbers.

    Args:
        logits: (n, V); −∞ for a token that isn't to be drawn.

    Returns:
        (n,) tokens, their log-probabilities, and the entropies of their distributions, in nats.

    Raises:
        ValueError: a row has no distribution.
    """
    u = None if greedy else 1 - torch.rand(len(logits), dtype=torch.float64, device=logits.device)  # 0 < u ≤ 1
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and is_compiled():
        return _in_c(logits, u)
    return _in_torch(logits.float(), u)


def is_compiled() -> bool:
    """Whether there is compiled code for sampling; if not, says so once."""
    return is_available("sampling takes PyTorch instead of compiled code")


def _in_torch(logits: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    if p.isnan().any():
        raise ValueError(NO_DISTRIBUTION)
    if u is None:
        chosen = log_p.argmax(-1, keepdim=True)
    else:  # the first whose sum of probabilities reaches u: never one without a probability
        sums = p.cumsum(-1, dtype=torch.float64)
        chosen = torch.searchsorted(sums, u[:, None] * sums[:, -1:])
    least = torch.finfo(log_p.dtype).min  # where 0 · log 0 = 0 would be NaN
    return chosen[:, 0], log_p.gather(1, chosen)[:, 0], -(p * log_p.clamp_min(least)).sum(-1)


def _in_c(logits: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    n, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    tokens = torch.empty(n, dtype=torch.long)
    logprobs, entropies = torch.empty(n), torch.empty(n)
    broken = library().choose(
        n, vocabulary, logits.stride(0), address(logits), None if u is None else address(u),
        address(tokens), address(logprobs), address(entropies),
    )  # fmt: skip
    if broken:
        raise ValueError(NO_DISTRIBUTION)
    return tokens, logprobs, entropies
