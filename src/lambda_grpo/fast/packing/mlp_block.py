"""The second half of a decoder layer as one function that saves less for its backward: float32 on a CPU.

With h = RMSNorm(x): x + W_down (SwiGLU(W_gate h, W_up h)). Apart from x, only the two products of the middle are saved;
h and the SwiGLU are computed again, which costs little beside the matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lambda_grpo.fast.packing import elementwise
from lambda_grpo.fast.packing.products import product, weight_gradient


def mlp_block(x: Tensor, norm: Tensor, epsilon: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """(…, H) -> (…, H); norm (H,), gate and up (I, H), down (H, I)."""
    return _MLPBlock.apply(x, norm, epsilon, gate, up, down)


class _MLPBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, epsilon: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        x = x.contiguous()
        h, scale = elementwise.norm(x.flatten(0, -2), norm, epsilon)
        gated, upped = product(h, gate), product(h, up)
        ctx.save_for_backward(x, scale, gated, upped, norm, gate, up, down)
        ctx.epsilon = epsilon
        return product(elementwise.swiglu(gated, upped), down, add_to=x.flatten(0, -2).clone()).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, gated, upped, norm, gate, up, down = ctx.saved_tensors
        needs_x, needs_norm, _, needs_gate, needs_up, needs_down = ctx.needs_input_grad
        g = grad.contiguous().flatten(0, -2)
        middle = product(g, down, is_transposed=True)  # the SwiGLU's gradient, then the SwiGLU
        of_gated, of_upped = elementwise.swiglu_gradient(middle, gated, upped, output_to=middle)
        of_down = weight_gradient(g, middle) if needs_down else None
        del middle
        h, _ = elementwise.norm(x.flatten(0, -2), norm, ctx.epsilon)
        of_gate = weight_gradient(of_gated, h) if needs_gate else None
        of_up = weight_gradient(of_upped, h) if needs_up else None
        if not (needs_x or needs_norm):
            return None, None, None, of_gate, of_up, of_down
        of_h = product(of_gated, gate, is_transposed=True)
        of_h = product(of_upped, up, is_transposed=True, add_to=of_h)
        of_x, of_norm = elementwise.norm_gradient(of_h, x.flatten(0, -2), norm, scale)
        return of_x.add_(g).view(x.shape), of_norm if needs_norm else None, None, of_gate, of_up, of_down
