"""TRL's log-probabilities, computed by the packed training pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.fast import packing
from lambda_grpo.fast.architectures import UnsupportedError


@dataclass(frozen=True)
class SkippedSamples:
    """(B,) which samples aren't computed, and (B, T) log-probabilities and entropies to use for them instead."""

    is_skipped: Tensor
    logps: Tensor
    entropies: Tensor


class Packer:
    """Forward passes without padding that read a prompt once for all of its completions, on a CPU.

    For models that `packing.check_packable` accepts; others are left to TRL's own pass, with one warning that names the
    cause. On a GPU TRL's pass is used without a warning. Values and gradients are TRL's up to rounding: TRL's own head
    computes log-probabilities and entropies of the packed sequence. With dropout each completion has the same
    distribution as in TRL's pass; completions of one prompt share the dropout masks of the prompt.

    Args:
        models: the policy and, where there is one, the reference model.
        is_wanted: whether to pack at all.
        unsupported: a setting of TRL that the packed pass doesn't support; None if there is none.
        skips_known: whether samples with an advantage of 0 may be skipped: they have no gradient, and the policy is
            still the one that sampled, so the sampler's values are its own.

    Attributes:
        is_on: whether passes are packed; switched off by the first model that isn't supported.
    """

    def __init__(
        self,
        accelerator: Any,
        models: Sequence[Any],
        *,
        is_wanted: bool = True,
        unsupported: str | None = None,
        skips_known: bool = False,
    ):
        self.accelerator, self.unsupported, self.skips_known = accelerator, unsupported, skips_known
        self._skipped: SkippedSamples | None = None
        self.is_on = is_wanted and accelerator.device.type == "cpu"
        self.is_on = self.is_on and self._can_pack(models)
        if self.is_on:
            packing.keep_freed_memory()
            for model in models:
                packing.prepare(model, native=accelerator.mixed_precision == "no")

    def _can_pack(self, models: Sequence[Any]) -> bool:
        """Whether the models are supported now, since hooks come and go. If not, packing is switched off."""
        try:
            if self.unsupported is not None:
                raise UnsupportedError(self.unsupported)
            for model in models:
                packing.check_packable(self.accelerator.unwrap_model(model))
        except UnsupportedError as error:
            self.is_on = False
            if self.accelerator.is_main_process:
                warnings.warn(
                    f"the packed training pass doesn't know {error}. TRL's own takes its place (packing: false)",
                    stacklevel=2,
                )
            return False
        return True

    @contextmanager
    def skipping(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Let the passes of one loss skip samples whose values have no effect or are known."""
        self._skipped = self._samples_to_skip(inputs) if self.is_on else None
        try:
            yield
        finally:
            self._skipped = None

    def _samples_to_skip(self, inputs: dict[str, Any]) -> SkippedSamples | None:
        shape, device = inputs["completion_ids"].shape, inputs["completion_ids"].device
        is_skipped = torch.zeros(shape[0], dtype=torch.bool, device=device)
        logps, entropies = inputs.get("old_per_token_logps"), None
        if "tool_mask" in inputs:
            is_skipped |= (inputs["completion_mask"] * inputs["tool_mask"]).sum(1) == 0
        if self.skips_known and {"known_logps", "has_no_advantage"} <= inputs.keys():
            is_known = ~inputs["known_logps"].isnan().any(1)
            is_skipped |= inputs["has_no_advantage"] & is_known
            logps, entropies = (inputs[name].nan_to_num(0.0) for name in ("known_logps", "known_entropies"))
        has_tokens = inputs["completion_mask"].any(1)
        is_skipped &= has_tokens  # the others cost nothing
        if (is_skipped == has_tokens).all():
            is_skipped[has_tokens.int().argmax()] = False  # the loss has to have a graph
        if not is_skipped.any():
            return None
        zeros = torch.zeros(shape, device=device)
        return SkippedSamples(is_skipped, zeros if logps is None else logps, zeros if entropies is None else entropies)

    def logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *,
        batch_size: int | None = None,
        compute_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None] | None:
        """(B, T) log-probabilities and entropies of completions, as TRL's method; None to let TRL compute them.

        Args:
            input_ids: (B, P + T) prompts, padded on the left, and completions, padded on the right.
            attention_mask: (B, P + T).
            logits_to_keep: T.
            batch_size: samples of one pass; all of them by default.
            compute_entropy: whether entropies are asked for.
        """
        if not self.is_on or not attention_mask[:, -logits_to_keep:].any() or not self._can_pack([model]):
            return None
        if self._skipped is not None:
            attention_mask = attention_mask * ~self._skipped.is_skipped[:, None]
        pieces = [
            self._packed_pass(model, ids, mask, logits_to_keep)
            for ids, mask in zip(
                input_ids.split(batch_size or len(input_ids)),
                attention_mask.split(batch_size or len(input_ids)),
                strict=True,
            )
        ]
        logps = torch.cat([logps for logps, _ in pieces])
        entropies = (
            torch.cat([entropies for _, entropies in pieces if entropies is not None]) if compute_entropy else None
        )
        if self._skipped is not None:
            is_skipped = self._skipped.is_skipped[:, None]
            logps = torch.where(is_skipped, self._skipped.logps, logps)
            entropies = None if entropies is None else torch.where(is_skipped, self._skipped.entropies, entropies)
        return logps, entropies

    def _packed_pass(self, model: Any, ids: Tensor, mask: Tensor, keep: int) -> tuple[Tensor, Tensor | None]:
        """(B, keep) log-probabilities and entropies of the completions, 0 where there is no token.

        A reference model's head gives no entropies.
        """
        if not mask[:, -keep:].any():
            zeros = torch.zeros(len(ids), keep, device=ids.device)
            return zeros, zeros
        layout = packing.pack(ids[:, :-keep], mask[:, :-keep], ids[:, -keep:], mask[:, -keep:])
        with self.accelerator.autocast():
            outputs = packing.packed_pass(model, layout)

        def padded(flat: Tensor) -> Tensor:
            out = flat.new_zeros(len(ids), keep)
            return out.index_put((layout.sample_index, layout.token_index), flat[0])

        return padded(outputs.log_probs), None if outputs.entropy is None else padded(outputs.entropy)
