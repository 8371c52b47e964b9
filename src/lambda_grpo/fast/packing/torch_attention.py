"""Attention over a `Layout` in PyTorch, in any dtype, behind transformers' own interface.

Each part is one call of torch's flash attention on the CPU. What a segment's token sees of its prompt and what of its
own segment are two softmaxes over parts of its keys; with their log-sum-exps they join to the softmax over all keys. In
the backward each part gets the joined output and log-sum-exp, and so gives its share of the joined gradient, as in
ring attention (arXiv 2310.01889).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lambda_grpo.fast.architectures import PACKED_ATTENTION
from lambda_grpo.fast.packing.layout import Layout, Part

FAR = 1e30  # a log-sum-exp that makes every weight 0

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def register() -> None:
    """Make the implementation known to transformers. Without a layout it is "sdpa"."""
    AttentionInterface.register(PACKED_ATTENTION, attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Transformers' interface: (1, heads, T, d) queries, (1, kv_heads, T, d) keys and values -> (1, T, heads, d)."""
    layout: Layout | None = kwargs.pop("packed_layout", None)
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    repeats = query.size(1) // key.size(1)
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    # autocast leaves rotated queries and keys in float32, and would cast what sdpa is given
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    flat = [tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value)]
    return _PackedAttention.apply(*flat, layout, kwargs["scaling"])[None], None


class _PackedAttention(torch.autograd.Function):
    """(T, heads, d) queries, keys and values -> (T, heads, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
        q, k, v = (_with_padding(tensor) for tensor in (q, k, v))
        out, lse = _flat(
            [_part_forward(part, q, k, v, scale) for part in layout.own], [p.queries for p in layout.own], layout
        )
        if layout.shared is not None:
            shared, shared_lse = _flat([_part_forward(layout.shared, q, k, v, scale)], [layout.shared.queries], layout)
            joined = torch.logaddexp(lse, shared_lse)
            out = (out * (lse - joined).exp() + shared * (shared_lse - joined).exp()).to(q.dtype)
            lse = joined
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grad, out = _with_padding(grad), _with_padding(out)
        lse = torch.cat([lse, lse.new_full((1, *lse.shape[1:]), FAR)])
        parts = ctx.layout.own + ([] if ctx.layout.shared is None else [ctx.layout.shared])
        totals = [torch.zeros_like(tensor) for tensor in (q, k, v)]
        for part in parts:
            grads = _backward(
                _gather(grad, part.queries), _gather(q, part.queries), _gather(k, part.keys), _gather(v, part.keys),
                _gather(out, part.queries), _gather(lse, part.queries)[..., 0].contiguous(), 0.0, part.is_causal,
                attn_mask=_bias(part, q), scale=ctx.scale,
            )  # fmt: skip
            for total, places, of_part in zip(totals, (part.queries, part.keys, part.keys), grads, strict=True):
                total.index_add_(0, places.flatten(), of_part.transpose(1, 2).flatten(0, 1))
        return (*(total[:-1] for total in totals), None, None)


def _part_forward(part: Part, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _forward(
        _gather(q, part.queries), _gather(k, part.keys), _gather(v, part.keys), 0.0, part.is_causal,
        attn_mask=_bias(part, q), scale=scale,
    )  # fmt: skip


def _bias(part: Part, q: Tensor) -> Tensor | None:
    return None if part.key_bias is None else part.key_bias.to(q.dtype)  # another dtype would be misread


def _with_padding(flat: Tensor) -> Tensor:
    """A row of zeros behind the last one, which padded places read."""
    return torch.cat([flat, flat.new_zeros(1, *flat.shape[1:])])


def _gather(flat: Tensor, places: Tensor) -> Tensor:
    """(T + 1, heads, d) at (B, L) places -> (B, heads, L, d)."""
    return flat.index_select(0, places.flatten()).view(*places.shape, *flat.shape[1:]).transpose(1, 2)


def _flat(results: list[tuple[Tensor, Tensor]], places: list[Tensor], layout: Layout) -> tuple[Tensor, Tensor]:
    """Outputs (B, heads, L, d) and log-sum-exps (B, heads, L) of parts -> (T, heads, d), (T, heads, 1).

    A token that is in none of them has 0 and −∞.
    """
    heads, d = results[0][0].size(1), results[0][0].size(3)
    out = results[0][0].new_zeros(layout.length + 1, heads, d)
    lse = results[0][1].new_full((layout.length + 1, heads, 1), -torch.inf)
    for (part_out, part_lse), at in zip(results, places, strict=True):
        out[at.flatten()] = part_out.transpose(1, 2).flatten(0, 1)
        lse[at.flatten()] = part_lse.transpose(1, 2).flatten(0, 1)[..., None]
    return out[:-1], lse[:-1]
