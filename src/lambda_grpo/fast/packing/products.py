"""Products of float32 matrices on a CPU, and their gradients: by torch, or in native code where that is faster.

torch multiplies float32 matrices with MKL, which is slow on other processors than Intel's: about 100 GFLOP/s on a core
of an AMD EPYC. There matrix products are native (`fast/native/training_layers.c`). oneDNN, which is part of torch's CPU
builds, is as fast, but compiles code for each number of rows that it meets and keeps it: 256 KiB for each of a thousand
products.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from lambda_grpo.fast.native import address, library, up


@functools.cache
def is_mkl_slow() -> bool:
    """Whether torch uses MKL on another processor than Intel's. Not timed, so that a run's rounding is reproducible."""
    cpu = Path("/proc/cpuinfo")
    vendor = cpu.read_text() if cpu.exists() else "GenuineIntel"  # unknown elsewhere: keep torch's own
    return torch.backends.mkl.is_available() and "GenuineIntel" not in vendor


def product(x: Tensor, weight: Tensor, *, is_transposed: bool = False, add_to: Tensor | None = None) -> Tensor:
    """(T, k) -> (T, n): X Wᵀ with W (n, k), or X W with W (k, n) if `is_transposed`; added to `add_to`, if given."""
    if is_mkl_slow():
        out = native_product(x, weight, is_transposed=is_transposed)
        return out if add_to is None else add_to.add_(out)
    matrix = weight if is_transposed else weight.T
    return x @ matrix if add_to is None else add_to.addmm_(x, matrix)


def weight_gradient(grad: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """(T, n), (T, k) -> (n, k), summed over the rows; written to `out` if it is given."""
    if not is_mkl_slow():
        return torch.mm(grad.T, x) if out is None else torch.mm(grad.T, x, out=out)
    found = native_weight_gradient(grad, x)
    return found if out is None else out.copy_(found)


def native_product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, is_transposed: bool = False) -> Tensor:
    """(…, k) -> (…, n): X Wᵀ + b with W (n, k), or X W with W (k, n) if `is_transposed`."""
    x, weight = x.contiguous(), weight.contiguous()
    k, n = x.size(-1), weight.size(1 if is_transposed else 0)
    out = x.new_empty(*x.shape[:-1], n)
    bias = None if bias is None else bias.contiguous()
    bias_address = None if bias is None else address(bias)
    if library().lgrpo_linear(
        x.numel() // k, address(x), k, address(weight), n, is_transposed, bias_address, address(out)
    ):
        raise MemoryError("out of memory in a linear layer")
    return out


def native_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(…, n), (…, k) -> (n, k), summed over the rows."""
    grad, x = grad.contiguous(), x.contiguous()
    n, k = grad.size(-1), x.size(-1)
    out = grad.new_empty(up(n, library().lgrpo_panel_height()), up(k, library().lgrpo_panel_width()))
    if library().lgrpo_weight_gradient(x.numel() // k, address(grad), n, address(x), k, address(out)):
        raise MemoryError("out of memory in the gradient of a weight")
    return out[:n, :k]
