"""A decoder's linear layers, norms and SwiGLU in fewer passes over memory, in float32 on a CPU.

Their values and gradients are those of torch and transformers, to rounding. A norm and a SwiGLU are one call of C
(`fast/native/layers.c`) where PyTorch has five to eight operations, and keep one tensor less each for the backward.

torch multiplies float32 matrices by MKL, which is slow on processors that aren't Intel's: on a core of an AMD EPYC it
has about 100 GFLOP/s. There products are C's, too. oneDNN, which is in torch's CPU builds, is as fast, but compiles
code for each number of rows that it meets, and keeps it: 256 KiB for each of a thousand products.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lambda_grpo.fast.architectures import SILU, role
from lambda_grpo.fast.native import address, library, up
from lambda_grpo.fast.native import is_available as is_compiled_available
from lambda_grpo.fast.packing.compiled_attention import attention
from lambda_grpo.fast.packing.layout import Layout

ROWS_TOGETHER = 256  # whose share of a norm's weight is summed in C


def use_compiled(model: nn.Module) -> bool:
    """Let the layers of a Llama-like float32 model on a CPU compute in C. Returns whether they do.

    Layers are changed in place, their weights aren't. Those of another class, or with a forward of their own, stay as
    they are. Without a compiler nothing is changed, which is said once.
    """
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        return False
    if not is_compiled_available("training takes PyTorch's own layers instead of compiled ones"):
        return False
    is_slow = is_mkl_slow()
    forwards: dict[str | None, Any] = {"RMSNorm": _norm, "MLP": _mlp, "Attention": _attention}
    for layer in model.modules():
        if "forward" in vars(layer):
            continue
        if type(layer) is nn.Linear and is_slow:
            _replace_forward(layer, _linear)
        elif role(layer) in forwards:
            _replace_forward(layer, forwards[role(layer)])
    return True


def is_mkl_slow() -> bool:
    """Whether torch has MKL on a processor that isn't Intel's. No trial: a run's rounding is to stay the same."""
    cpu = Path("/proc/cpuinfo")
    vendor = cpu.read_text() if cpu.exists() else "GenuineIntel"  # elsewhere: unknown, so torch's own
    return torch.backends.mkl.is_available() and "GenuineIntel" not in vendor


def _replace_forward(layer: nn.Module, forward: Any) -> None:
    layer.forward = partial(forward, layer)


def _is_for_c(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer is still what it was when its forward was replaced: models are moved and cast."""
    is_float = x.dtype == weight.dtype == torch.float32
    return is_float and x.device.type == weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _linear(self: nn.Linear, x: Tensor) -> Tensor:
    if not _is_for_c(x, self.weight):
        return nn.Linear.forward(self, x)
    return _Linear.apply(x, self.weight, self.bias)


def _norm(self: Any, x: Tensor) -> Tensor:
    if not _is_for_c(x, self.weight):
        return type(self).forward(self, x)
    return _Norm.apply(x, self.weight, self.variance_epsilon)


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Any,
    *rest: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As that of transformers' Llama, Qwen2 and Qwen3."""
    layout: Layout | None = kwargs.get("packed_layout")
    if layout is None or not _is_for_c(hidden_states, position_embeddings[0]):
        return type(self).forward(self, hidden_states, position_embeddings, attention_mask, *rest, **kwargs)
    q, k, v = (
        project(hidden_states).view(hidden_states.size(1), -1, self.head_dim)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    if hasattr(self, "q_norm"):
        q, k = self.q_norm(q), self.k_norm(k)
    cos, sin = position_embeddings
    return self.o_proj(attention(q, k, v, cos[0], sin[0], layout, self.scaling).flatten(1)[None]), None


def _mlp(self: Any, x: Tensor) -> Tensor:
    gate, up_ = self.gate_proj(x), self.up_proj(x)
    if not (_is_silu(self.act_fn) and _is_for_c(gate, up_)):
        return self.down_proj(self.act_fn(gate) * up_)
    return self.down_proj(_SwiGLU.apply(gate, up_))


def _is_silu(function: Any) -> bool:
    """Whether an activation is still SiLU alone: hooks on it would see nothing of what C computes."""
    has_hooks = function._forward_hooks or function._forward_pre_hooks
    return type(function) in SILU and not has_hooks and "forward" not in vars(function)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, len(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(grad, weight, weight.size(1), by_depth=True) if needs_x else None,
            _weight_gradient(grad, x) if needs_weight else None,
            grad.flatten(0, -2).sum(0) if ctx.has_bias and needs_bias else None,
        )


def _product(x: Tensor, weight: Tensor, n: int, bias: Tensor | None = None, *, by_depth: bool = False) -> Tensor:
    """(…, k) -> (…, n): X Wᵀ + b with W (n, k), or X W with W (k, n) `by_depth`."""
    x, weight = x.contiguous(), weight.contiguous()
    k = x.size(-1)
    out = x.new_empty(*x.shape[:-1], n)
    bias = None if bias is None else bias.contiguous()
    bias_at = None if bias is None else address(bias)
    if library().linear(x.numel() // k, address(x), k, address(weight), n, by_depth, bias_at, address(out)):
        raise MemoryError("no memory for a linear layer")
    return out


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(…, n), (…, k) -> (n, k), summed over the rows."""
    grad, x = grad.contiguous(), x.contiguous()
    n, k = grad.size(-1), x.size(-1)
    out = grad.new_empty(up(n, library().panel_height()), up(k, library().panel_width()))
    if library().weight_gradient(x.numel() // k, address(grad), n, address(x), k, address(out)):
        raise MemoryError("no memory for a weight's gradient")
    return out[:n, :k]


class _Norm(torch.autograd.Function):
    """RMSNorm (arXiv 1910.07467): x w / sqrt(mean x² + ε)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        size = x.size(-1)
        out, scale = torch.empty_like(x), x.new_empty(x.numel() // size)
        library().norm_forward(len(scale), size, address(x), address(weight), epsilon, address(out), address(scale))
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad, out = grad.contiguous(), torch.empty_like(x)
        shares = x.new_empty(-(-len(scale) // ROWS_TOGETHER), x.size(-1))
        library().norm_backward(
            len(scale), x.size(-1), ROWS_TOGETHER, address(grad), address(x), address(weight), address(scale),
            address(out), address(shares),
        )  # fmt: skip
        return out, shares.sum(0) if ctx.needs_input_grad[1] else None, None


class _SwiGLU(torch.autograd.Function):
    """gate σ(gate) up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        library().swiglu_forward(out.numel(), address(gate), address(up), address(out))
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad, d_gate, d_up = grad.contiguous(), torch.empty_like(gate), torch.empty_like(up)
        library().swiglu_backward(
            gate.numel(), address(grad), address(gate), address(up), address(d_gate), address(d_up)
        )
        return d_gate, d_up
