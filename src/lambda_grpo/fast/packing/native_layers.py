"""A decoder's linear layers, norms and SwiGLU in native code: fewer passes over memory, in float32 on a CPU.

Values and gradients equal those of torch and transformers up to rounding. A norm or a SwiGLU is one call of C
(`elementwise`) instead of PyTorch's five to eight operations. Where a layer's MLP has no adapters, hooks or biases, it
is one function with its norm (`mlp_block`), which saves less for the backward.

Where torch's matrix products are slow (`products`), linear layers are native, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lambda_grpo.fast.architectures import SILU, role
from lambda_grpo.fast.native import is_available as is_native_available
from lambda_grpo.fast.packing import elementwise, products
from lambda_grpo.fast.packing.layout import Layout
from lambda_grpo.fast.packing.mlp_block import mlp_block
from lambda_grpo.fast.packing.native_attention import attention

FALLBACK = "training uses PyTorch's layers instead of native ones"


def use_native_layers(model: nn.Module) -> bool:
    """Replace the forwards of a Llama-like float32 model's layers on a CPU by native ones. Returns whether it has.

    Layers of another class, or whose forward was replaced already, stay as they are. Without a compiler there is one
    warning, and nothing changes.
    """
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        return False
    if not is_native_available(FALLBACK):
        return False
    is_slow = products.is_mkl_slow()
    forwards: dict[str | None, Any] = {
        "RMSNorm": _norm, "MLP": _mlp, "Attention": _attention, "DecoderLayer": _layer
    }  # fmt: skip
    for layer in model.modules():
        if "forward" in vars(layer):
            continue
        if type(layer) is nn.Linear and is_slow:
            _replace_forward(layer, _linear)
        elif role(layer) in forwards:
            _replace_forward(layer, forwards[role(layer)])
    return True


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


def _layer(self: Any, hidden_states: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """The forward of transformers' decoder layers, whose second half is one function if it has nothing of its own."""
    norm, mlp = self.post_attention_layernorm, self.mlp
    if rest or not (_has_plain_mlp(norm, mlp) and _is_native(hidden_states, norm.weight)):
        return type(self).forward(self, hidden_states, *rest, **kwargs)
    attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
    weights = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
    return mlp_block(hidden_states + attended, norm.weight, norm.variance_epsilon, *weights)


def _has_plain_mlp(norm: Any, mlp: Any) -> bool:
    """Whether a layer's norm and MLP are transformers' own, without biases, hooks, adapters or replaced forwards."""
    if role(norm) != "RMSNorm" or role(mlp) != "MLP":
        return False
    linears = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return (
        _is_silu(mlp.act_fn)
        and all(type(layer) is nn.Linear and layer.bias is None for layer in linears)
        and all(layer.weight.dtype == torch.float32 for layer in linears)
        and not any(_has_hooks(module) for module in (norm, mlp, *linears))
        and all(_is_ours(module) for module in (norm, mlp, *linears))
    )


def _is_ours(module: Any) -> bool:
    """Whether a module's forward is its class's, or the same function in native code."""
    forward = vars(module).get("forward")
    return forward is None or (isinstance(forward, partial) and forward.func in (_linear, _norm, _mlp))


def _has_hooks(module: Any) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


def _mlp(self: Any, x: Tensor) -> Tensor:
    gate, up_ = self.gate_proj(x), self.up_proj(x)
    if not (_is_silu(self.act_fn) and _is_native(gate, up_)):
        return self.down_proj(self.act_fn(gate) * up_)
    return self.down_proj(_SwiGLU.apply(gate, up_))


def _is_silu(function: Any) -> bool:
    """Whether an activation is SiLU and nothing else: hooks on it wouldn't be called by native code."""
    return type(function) in SILU and not _has_hooks(function) and "forward" not in vars(function)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.has_bias = bias is not None
        return products.native_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            products.native_product(grad, weight, is_transposed=True) if needs_x else None,
            products.native_weight_gradient(grad, x) if needs_weight else None,
            grad.flatten(0, -2).sum(0) if ctx.has_bias and needs_bias else None,
        )


class _Norm(torch.autograd.Function):
    """RMSNorm (arXiv 1910.07467): x w / sqrt(mean x² + ε)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        out, scale = elementwise.norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_weight = elementwise.norm_gradient(grad.contiguous(), *ctx.saved_tensors)
        return of_x, of_weight if ctx.needs_input_grad[1] else None, None


class _SwiGLU(torch.autograd.Function):
    """gate σ(gate) up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return elementwise.swiglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return elementwise.swiglu_gradient(grad.contiguous(), *ctx.saved_tensors)
