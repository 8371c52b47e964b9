"""A decoder's linear layers, norms and SwiGLU in native code: fewer passes over memory, in float32 on a CPU.

Values and gradients equal those of torch and transformers up to rounding. A norm or a SwiGLU is one call of C
(`fast/native/training_layers.c`) instead of PyTorch's five to eight operations, and saves one tensor less for the
backward.

torch multiplies float32 matrices with MKL, which is slow on other processors than Intel's: about 100 GFLOP/s on a core
of an AMD EPYC. There matrix products are native, too. oneDNN, which is part of torch's CPU builds, is as fast, but
compiles code for each number of rows that it meets and keeps it: 256 KiB for each of a thousand products.
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
from lambda_grpo.fast.native import is_available as is_native_available
from lambda_grpo.fast.packing.layout import Layout
from lambda_grpo.fast.packing.native_attention import attention

NORM_BLOCK = 256  # rows whose share of the gradient of a norm's weight is summed in C


def use_native_layers(model: nn.Module) -> bool:
    """Replace the forwards of a Llama-like float32 model's layers on a CPU by native ones. Returns whether it has.

    Layers of another class, or whose forward was replaced already, stay as they are. Without a compiler there is one
    warning, and nothing changes.
    """
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        return False
    if not is_native_available("training uses PyTorch's layers instead of native ones"):
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
    """Whether torch uses MKL on another processor than Intel's. Not timed, so that a run's rounding is reproducible."""
    cpu = Path("/proc/cpuinfo")
    vendor = cpu.read_text() if cpu.exists() else "GenuineIntel"  # unknown elsewhere: keep torch's own
    return torch.backends.mkl.is_available() and "GenuineIntel" not in vendor


def _replace_forward(layer: nn.Module, forward: Any) -> None:
    layer.forward = partial(forward, layer)


def _is_native(x: Tensor, weight: Tensor) -> bool:
    """Whether native code can compute a layer: the model may have been moved or cast after its preparation."""
    is_float = x.dtype == weight.dtype == torch.float32
    return is_float and x.device.type == weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _linear(self: nn.Linear, x: Tensor) -> Tensor:
    if not _is_native(x, self.weight):
        return nn.Linear.forward(self, x)
    return _Linear.apply(x, self.weight, self.bias)


def _norm(self: Any, x: Tensor) -> Tensor:
    if not _is_native(x, self.weight):
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
    """The forward of transformers' LlamaAttention, Qwen2Attention and Qwen3Attention."""
    layout: Layout | None = kwargs.get("packed_layout")
    if layout is None or not _is_native(hidden_states, position_embeddings[0]):
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
    if not (_is_silu(self.act_fn) and _is_native(gate, up_)):
        return self.down_proj(self.act_fn(gate) * up_)
    return self.down_proj(_SwiGLU.apply(gate, up_))


def _is_silu(function: Any) -> bool:
    """Whether an activation is SiLU and nothing else: hooks on it wouldn't be called by native code."""
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
            _product(grad, weight, weight.size(1), is_transposed=True) if needs_x else None,
            _weight_gradient(grad, x) if needs_weight else None,
            grad.flatten(0, -2).sum(0) if ctx.has_bias and needs_bias else None,
        )


def _product(x: Tensor, weight: Tensor, n: int, bias: Tensor | None = None, *, is_transposed: bool = False) -> Tensor:
    """(…, k) -> (…, n): X Wᵀ + b with W (n, k), or X W with W (k, n) if `is_transposed`."""
    x, weight = x.contiguous(), weight.contiguous()
    k = x.size(-1)
    out = x.new_empty(*x.shape[:-1], n)
    bias = None if bias is None else bias.contiguous()
    bias_address = None if bias is None else address(bias)
    if library().lgrpo_linear(
        x.numel() // k, address(x), k, address(weight), n, is_transposed, bias_address, address(out)
    ):
        raise MemoryError("out of memory in a linear layer")
    return out


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(…, n), (…, k) -> (n, k), summed over the rows."""
    grad, x = grad.contiguous(), x.contiguous()
    n, k = grad.size(-1), x.size(-1)
    out = grad.new_empty(up(n, library().lgrpo_panel_height()), up(k, library().lgrpo_panel_width()))
    if library().lgrpo_weight_gradient(x.numel() // k, address(grad), n, address(x), k, address(out)):
        raise MemoryError("out of memory in the gradient of a weight")
    return out[:n, :k]


class _Norm(torch.autograd.Function):
    """RMSNorm (arXiv 1910.07467): x w / sqrt(mean x² + ε)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        size = x.size(-1)
        out, scale = torch.empty_like(x), x.new_empty(x.numel() // size)
        library().lgrpo_rms_norm_forward(
            len(scale), size, address(x), address(weight), epsilon, address(out), address(scale)
        )
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad, out = grad.contiguous(), torch.empty_like(x)
        weight_grads = x.new_empty(-(-len(scale) // NORM_BLOCK), x.size(-1))
        library().lgrpo_rms_norm_backward(
            len(scale), x.size(-1), NORM_BLOCK, address(grad), address(x), address(weight), address(scale),
            address(out), address(weight_grads),
        )  # fmt: skip
        return out, weight_grads.sum(0) if ctx.needs_input_grad[1] else None, None


class _SwiGLU(torch.autograd.Function):
    """gate σ(gate) up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        library().lgrpo_swiglu_forward(out.numel(), address(gate), address(up), address(out))
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad, d_gate, d_up = grad.contiguous(), torch.empty_like(gate), torch.empty_like(up)
        library().lgrpo_swiglu_backward(
            gate.numel(), address(grad), address(gate), address(up), address(d_gate), address(d_up)
        )
        return d_gate, d_up
