"""Rotary attention over a packed sequence in native code (`fast/native/packed_attention.c`): float32 on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lambda_grpo.fast.native import address, library
from lambda_grpo.fast.native.structures import PackedSequence
from lambda_grpo.fast.packing.layout import Layout


def attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attention of each token to its prompt and, causally, to its own segment.

    Args:
        q: (T, heads, d), before the rotary embedding.
        k, v: (T, kv_heads, d).
        cos, sin: (T, d) of the tokens' positions.
        scale: factor of the scores.

    Returns:
        (T, heads, d).
    """
    return _Attention.apply(q, k, v, cos, sin, layout, scale)


class _Attention(torch.autograd.Function):
    """(T, heads, d) queries, (T, kv_heads, d) keys and values, (T, d) cos and sin -> (T, heads, d)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        q, k, v, cos, sin = (tensor.contiguous() for tensor in (q, k, v, cos, sin))
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2])
        _call(layout, scale, (q, k, v, cos, sin), (out, lse))
        ctx.save_for_backward(q, k, v, cos, sin, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out, lse = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in inputs[:3]]
        _call(ctx.layout, ctx.scale, inputs, (out, lse, grad.contiguous(), *grads))
        return (*grads, None, None, None, None)


def _call(layout: Layout, scale: float, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Fill (out, lse), or from (out, lse, grad) the gradients (dq, dk, dv) behind them, given (q, k, v, cos, sin)."""
    q, k, *_ = inputs
    first_segments = functional.pad(layout.segment_counts.cumsum(0), (1, 0))
    spans = (layout.prompt_starts, layout.prompt_lengths, first_segments, layout.segment_starts, layout.segment_lengths)
    sequence = PackedSequence(
        len(layout.prompt_starts), *map(address, spans), q.size(1), k.size(1), q.size(2), scale,
        *map(address, inputs),
    )  # fmt: skip
    pointers = [address(tensor) for tensor in outputs] + [None] * (6 - len(outputs))
    if library().lgrpo_packed_attention(ctypes.byref(sequence), *pointers):
        raise MemoryError("out of memory in packed attention")
