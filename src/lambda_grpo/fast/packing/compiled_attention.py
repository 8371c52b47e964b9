"""Rotary attention over a `Layout` by `fast/native/attention.c`: float32 on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lambda_grpo.fast.native import address, library
from lambda_grpo.fast.packing.layout import Layout


def attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, layout: Layout, scale: float) -> Tensor:
    """What each token sees of its prompt and, before itself, of its own segment.

    Args:
        q: (T, heads, d), not rotated yet.
        k, v: (T, kv_heads, d).
        cos, sin: (T, d) of the tokens' positions.
        scale: of the scores.

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
        _in_c(layout, scale, (q, k, v, cos, sin), (out, lse))
        ctx.save_for_backward(q, k, v, cos, sin, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *row, out, lse = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in row[:3]]
        _in_c(ctx.layout, ctx.scale, row, (out, lse, grad.contiguous(), *grads))
        return (*grads, None, None, None, None)


class _Row(ctypes.Structure):
    """`Row` of `fast/native/attention.c`."""

    _fields_ = [
        ("prompts", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("prompt_start", "prompt_length", "first", "start", "length")),
        *((name, ctypes.c_int) for name in ("heads", "kv_heads", "head_dim")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "cos", "sin")),
    ]


def _in_c(layout: Layout, scale: float, row: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    q, k, *_ = row
    firsts = functional.pad(layout.segment_counts.cumsum(0), (1, 0))
    runs = (layout.prompt_starts, layout.prompt_lengths, firsts, layout.segment_starts, layout.segment_lengths)
    given = _Row(
        len(layout.prompt_starts), *map(address, runs), q.size(1), k.size(1), q.size(2), scale,
        *map(address, row),
    )  # fmt: skip
    pointers = [address(tensor) for tensor in results] + [None] * (6 - len(results))
    if library().attention(ctypes.byref(given), *pointers):
        raise MemoryError("no memory for attention")
