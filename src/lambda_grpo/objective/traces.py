"""Traces: weighted sums over a response's tokens up to t, in O(T) time per response.

Tokens are counted from 0 at the start of the completion. Values outside a response are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # tokens that one small matrix product takes together


def recent_trace(values: Tensor, decay: float) -> Tensor:
    """z_t = Σ_{k<=t} decay^(t−k) · x_k, (B, T) -> (B, T).

    That is z_t = x_t + decay · z_(t−1), but T sequential steps would be T small kernels. Within a block of tokens it is
    a product with a triangular matrix; from block to block one number per response is carried over.
    """
    length = values.size(1)
    steps = torch.arange(min(BLOCK, length), device=values.device)
    distance = steps[None, :] - steps[:, None]
    within = torch.where(distance >= 0, values.new_tensor(decay) ** distance.clamp(min=0), 0.0)  # (k, t)
    blocks, carried = [], values.new_zeros(len(values), 1)
    for start in range(0, length, BLOCK):
        block = values[:, start : start + BLOCK]
        width = block.size(1)
        summed = block @ within[:width, :width] + carried * values.new_tensor(decay) ** (steps[:width] + 1)
        blocks.append(summed)
        carried = summed[:, -1:]
    return torch.cat(blocks, 1) if blocks else values


def both_trace(values: Tensor, decay: float) -> Tensor:
    """z_t = Σ_{k<=t} max(decay^(t−k), decay^k) · x_k, (B, T) -> (B, T): recent tokens, and the first ones.

    The larger power is the one with the smaller exponent: decay^k up to the middle of 0 .. t, decay^(t−k) after it.
    """
    positions = torch.arange(values.size(1), device=values.device)
    middle = positions // 2
    base = values.new_tensor(decay)
    first = (values * base**positions).cumsum(1)[:, middle]
    recent = recent_trace(values, decay)
    return first + recent - recent[:, middle] * base ** (positions - middle)


def check_decay(gamma: float, lambda_trace: float) -> None:
    """Raise ValueError unless both lie between 0 and 1."""
    for name, value in (("gamma", gamma), ("lambda_trace", lambda_trace)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")
