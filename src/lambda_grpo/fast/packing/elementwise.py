"""RMSNorm and SwiGLU of contiguous float32 tensors, and their gradients, by `fast/native/training_layers.c`."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo.fast.native import address, library

NORM_BLOCK = 256  # rows whose share of the gradient of a norm's weight is summed in C


def norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(…, H) -> (…, H) normalised, and the factor of each row, flat."""
    size = x.size(-1)
    out, scale = torch.empty_like(x), x.new_empty(x.numel() // size)
    library().lgrpo_rms_norm_forward(
        len(scale), size, address(x), address(weight), epsilon, address(out), address(scale)
    )
    return out, scale


def norm_gradient(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `norm`'s input and weight, given its output's and the factors of the rows."""
    out, weight_grads = torch.empty_like(x), x.new_empty(-(-len(scale) // NORM_BLOCK), x.size(-1))
    library().lgrpo_rms_norm_backward(
        len(scale), x.size(-1), NORM_BLOCK, address(grad), address(x), address(weight), address(scale),
        address(out), address(weight_grads),
    )  # fmt: skip
    return out, weight_grads.sum(0)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate σ(gate) up."""
    out = torch.empty_like(gate)
    library().lgrpo_swiglu_forward(out.numel(), address(gate), address(up), address(out))
    return out


def swiglu_gradient(grad: Tensor, gate: Tensor, up: Tensor, output_to: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradients of `swiglu`'s inputs.

    output_to: where to write the output again; may be `grad`.
    """
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    library().lgrpo_swiglu_backward(
        gate.numel(), address(grad), address(gate), address(up), address(of_gate), address(of_up),
        None if output_to is None else address(output_to),
    )  # fmt: skip
    return of_gate, of_up
