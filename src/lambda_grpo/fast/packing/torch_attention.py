"""Attention over a packed sequence in PyTorch, in any dtype, behind transformers' own interface.

Each `AttentionBlock` is one call of torch's flash attention on the CPU. A segment's token attends to its prompt in one
block and to its own segment in another: two softmaxes over parts of its keys, which their log-sum-exps merge into the
softmax over all of them. In the backward each block is given the merged output and log-sum-exp, and so returns its
share of the whole gradient, as in ring attention (arXiv 2310.01889).
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
from lambda_grpo.fast.packing.layout import AttentionBlock, Layout

PADDING_LSE = 1e30  # a log-sum-exp that makes every probability 0

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def register() -> None:
    """Register the implementation with transformers. Without a layout it is "sdpa"."""
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
    # autocast leaves rotated queries and keys in float32; it would cast the inputs of sdpa
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    flat = [tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value)]
    return _PackedAttention.apply(*flat, layout, kwargs["scaling"])[None], None


class _PackedAttention(torch.autograd.Function):
    """(T, heads, d) queries, keys and values -> (T, heads, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
        q, k, v = (_with_padding(tensor) for tensor in (q, k, v))
        out, lse = _attend(layout.self_blocks, q, k, v, scale)
        if layout.prompt_block is not None:
            prompt_out, prompt_lse = _attend([layout.prompt_block], q, k, v, scale)
            merged = torch.logaddexp(lse, prompt_lse)
            out = (out * (lse - merged).exp() + prompt_out * (prompt_lse - merged).exp()).to(q.dtype)
            lse = merged
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grad, out = _with_padding(grad), _with_padding(out)
        lse = torch.cat([lse, lse.new_full((1, *lse.shape[1:]), PADDING_LSE)])
        blocks = ctx.layout.self_blocks + ([] if ctx.layout.prompt_block is None else [ctx.layout.prompt_block])
        totals = [torch.zeros_like(tensor) for tensor in (q, k, v)]
        for block in blocks:
            grads = _backward(
                _gather(grad, block.queries), _gather(q, block.queries), _gather(k, block.keys), _gather(v, block.keys),
                _gather(out, block.queries), _gather(lse, block.queries)[..., 0].contiguous(), 0.0, block.is_causal,
                attn_mask=_bias(block, q), scale=ctx.scale,
            )  # fmt: skip
            for total, tokens, of_block in zip(totals, (block.queries, block.keys, block.keys), grads, strict=True):
                total.index_add_(0, tokens.flatten(), of_block.transpose(1, 2).flatten(0, 1))
        return (*(total[:-1] for total in totals), None, None)


def _attend(blocks: list[AttentionBlock], q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(T + 1, heads, d) queries, keys and values -> (T, heads, d) outputs and (T, heads, 1) log-sum-exps of the blocks.

    A token that is a query in none of them gets 0 and −∞.
    """
    results = [
        _forward(
            _gather(q, block.queries), _gather(k, block.keys), _gather(v, block.keys), 0.0, block.is_causal,
            attn_mask=_bias(block, q), scale=scale,
        )
        for block in blocks
    ]  # fmt: skip
    out = results[0][0].new_zeros(q.shape)
    lse = results[0][1].new_full((*q.shape[:2], 1), -torch.inf)
    for block, (block_out, block_lse) in zip(blocks, results, strict=True):
        out[block.queries.flatten()] = block_out.transpose(1, 2).flatten(0, 1)
        lse[block.queries.flatten()] = block_lse.transpose(1, 2).flatten(0, 1)[..., None]
    return out[:-1], lse[:-1]


def _bias(block: AttentionBlock, q: Tensor) -> Tensor | None:
    return None if block.key_bias is None else block.key_bias.to(q.dtype)  # torch would misread another dtype


def _with_padding(flat: Tensor) -> Tensor:
    """(T, …) -> (T + 1, …): zeros at index T, which stands for padding."""
    return torch.cat([flat, flat.new_zeros(1, *flat.shape[1:])])


def _gather(flat: Tensor, tokens: Tensor) -> Tensor:
    """(T + 1, heads, d) at (B, L) indices -> (B, heads, L, d)."""
    return flat.index_select(0, tokens.flatten()).view(*tokens.shape, *flat.shape[1:]).transpose(1, 2)
