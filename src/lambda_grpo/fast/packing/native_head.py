"""Log-probabilities and entropies of a model's head in native code (`fast/native/head.c`): float32 on a CPU.

It takes the place of TRL's fused head, which has the same idea: logits exist only for some tokens of the vocabulary at
a time, and the backward computes them again. TRL's takes a dozen passes of PyTorch over them, this one a single pass in
each direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from trl.trainer import utils as trl_utils

from lambda_grpo.fast.native import address, is_available, library
from lambda_grpo.fast.packing.native_layers import FALLBACK
from lambda_grpo.fast.packing.products import product, weight_gradient

TILE = 1 << 22  # numbers of the logits that exist at the same time: 16 MiB
LEAST_COLUMNS = 512


@contextmanager
def native_head() -> Iterator[None]:
    """Let models with TRL's fused head compute it here, as far as it is supported."""
    with mock.patch.object(trl_utils, "_ChunkedLogProbFunction", _NativeOrTRLs(trl_utils._ChunkedLogProbFunction)):
        yield


class _NativeOrTRLs:
    """Stands for the autograd function of TRL's fused head."""

    def __init__(self, trls: Any):
        self.trls = trls

    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Tensor | None, ...]:
        """(log-probabilities, entropies) of (S,) labels, and None for the outputs that TRL's has besides."""
        is_float = hidden.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        is_plain = bias is None and softcap is None and scale == 1 and {*outputs} <= {"log_probs", "entropy"}
        is_on_cpu = hidden.device.type == weight.device.type == "cpu"
        if not (is_float and is_plain and is_on_cpu and is_available(FALLBACK)):
            return self.trls.apply(hidden, weight, bias, labels, temperature, chunk_size, softcap, scale, outputs)
        logps, entropies = _Head.apply(hidden, weight, labels, temperature)
        return logps, entropies if "entropy" in outputs else None, None, None, None


class _Head(torch.autograd.Function):
    """(S, H) hidden states, (V, H) weights, (S,) labels -> (S,) log-probabilities and entropies."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # entropies mostly have no gradient
        hidden, labels = hidden.contiguous(), labels.contiguous()
        statistics = hidden.new_tensor([-torch.inf, 0, 0, 0]).repeat(len(hidden), 1)  # as in head.c
        for start, part in _parts(weight, len(hidden)):
            logits = product(hidden, part)
            library().lgrpo_head_statistics(
                *logits.shape, address(logits), start, address(labels), 1 / temperature, address(statistics)
            )
        top, total, weighted, label = statistics.double().unbind(1)
        log_z = top + total.log()
        entropies = (total.log() - weighted / total).float()
        ctx.save_for_backward(hidden, weight, labels, log_z.float(), entropies)
        ctx.temperature = temperature
        return (label - log_z).float(), entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logps: Tensor | None, of_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, log_z, entropies = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        g = torch.zeros_like(log_z) if of_logps is None else of_logps.contiguous()
        h = None if of_entropies is None else of_entropies.contiguous()
        of_hidden = torch.zeros_like(hidden) if needs_hidden else None
        of_weight = torch.empty_like(weight) if needs_weight else None
        for start, part in _parts(weight, len(hidden)):
            logits = product(hidden, part)
            library().lgrpo_head_gradient(
                *logits.shape, address(logits), start, address(labels), 1 / ctx.temperature, address(log_z),
                address(entropies), address(g), None if h is None else address(h),
            )  # fmt: skip
            if of_hidden is not None:
                product(logits, part, is_transposed=True, add_to=of_hidden)
            if of_weight is not None:
                weight_gradient(logits, hidden, out=of_weight[start : start + len(part)])
        return of_hidden, of_weight, None, None


def _parts(weight: Tensor, tokens: int) -> Iterator[tuple[int, Tensor]]:
    """The rows of the weight in parts, each with the index of its first row."""
    columns = max(LEAST_COLUMNS, TILE // max(tokens, 1) // LEAST_COLUMNS * LEAST_COLUMNS)
    start = 0
    for part in weight.contiguous().split(columns):
        yield start, part
        start += len(part)
