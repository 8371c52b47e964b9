"""The packed training pass behind TRL's log-probabilities."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.errors import UserError
from lambda_grpo.fast import packing
from lambda_grpo.fast.architectures import UnsupportedError
from lambda_grpo.fast.positions import correct_positions
from trl import GRPOTrainer


@dataclass(frozen=True)
class StandIns:
    """(B,) rows that aren't computed, and the (B, T) log-probabilities and entropies that they have instead."""

    rows: Tensor
    logps: Tensor
    entropies: Tensor


class PackingTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` whose forward passes have no padding and read a prompt once, where `args.packing` is on.

    On a CPU, for models that `packing.check_packable` knows; elsewhere TRL's own pass is taken: silently on a GPU, else
    with one warning that names the cause. Values and gradients are TRL's, to rounding: its own head makes
    log-probabilities and entropies of the packed row. With dropout each row has the distribution that it has in TRL's
    pass; rows of one prompt share the prompt's draws.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        models = [self.accelerator.unwrap_model(model) for model in (self.model, self.ref_model) if model is not None]
        head = models[0].get_output_embeddings()
        if hasattr(head, "base_layer"):  # by transformers' add_adapter: TRL itself refuses PEFT's model
            raise UserError(
                "an adapter on lm_head wouldn't be trained, since TRL's loss reads lm_head.weight alone: leave lm_head "
                "out of the adapter's target_modules"
            )
        if not self._is_vlm:
            for model in models:
                correct_positions(model)
        self._packs = self.args.packing and self.accelerator.device.type == "cpu"
        self._packs = self._packs and self._can_pack(*models)
        self._stand_ins: StandIns | None = None
        # TRL's condition: whether the policy moves between sampling and the loss
        generate_every = self.args.steps_per_generation * self.num_iterations
        self._samples_are_old = self.args.gradient_accumulation_steps % generate_every != 0
        # whether a row without an advantage has no part in the gradient, and what is known of it is the policy's still
        self._only_advantages_count = not (
            self._samples_are_old or self.beta or self._entropy_bonus_enabled or self.top_entropy_quantile < 1.0
        )
        if self._packs:
            packing.keep_freed_memory()
            for model in models:
                packing.prepare(model, native=self.accelerator.mixed_precision == "no")

    def _can_pack(self, *models: Any) -> bool:
        """Whether the models are known at this moment: hooks may come and go. If not, packing ends."""
        try:
            if self.args.torch_compile:
                raise UnsupportedError("torch_compile")
            if self.args.cast_lm_head_to_fp32:
                raise UnsupportedError("cast_lm_head_to_fp32")
            for model in models:
                packing.check_packable(self.accelerator.unwrap_model(model))
        except UnsupportedError as error:
            self._packs = False
            if self.accelerator.is_main_process:
                warnings.warn(
                    f"the packed training pass doesn't know {error}. TRL's own takes its place (packing: false)",
                    stacklevel=2,
                )
        return self._packs

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self._packs:
            self._stand_ins = self._rows_to_leave_out(inputs)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._stand_ins = None

    def _rows_to_leave_out(self, inputs: dict[str, Any]) -> StandIns | None:
        shape, device = inputs["completion_ids"].shape, inputs["completion_ids"].device
        is_left_out = torch.zeros(shape[0], dtype=torch.bool, device=device)
        logps, entropies = inputs.get("old_per_token_logps"), None
        if "tool_mask" in inputs:
            is_left_out |= (inputs["completion_mask"] * inputs["tool_mask"]).sum(1) == 0
        if self._only_advantages_count and {"known_logps", "has_no_advantage"} <= inputs.keys():
            is_known = ~inputs["known_logps"].isnan().any(1)
            is_left_out |= inputs["has_no_advantage"] & is_known
            logps, entropies = (inputs[name].nan_to_num(0.0) for name in ("known_logps", "known_entropies"))
        has_tokens = inputs["completion_mask"].any(1)
        is_left_out &= has_tokens  # the others cost nothing
        if (is_left_out == has_tokens).all():
            is_left_out[has_tokens.int().argmax()] = False  # the loss has to have a graph
        if not is_left_out.any():
            return None
        zeros = torch.zeros(shape, device=device)
        return StandIns(is_left_out, zeros if logps is None else logps, zeros if entropies is None else entropies)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> Any:
        has_more = compute_aux_loss or any(value is not None for value in inputs.values())  # images, experts
        is_empty = not attention_mask[:, -logits_to_keep:].any()
        if not self._packs or has_more or is_empty or not self._can_pack(model):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **inputs,
            )
        if self._stand_ins is not None:
            attention_mask = attention_mask * ~self._stand_ins.rows[:, None]
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
        if self._stand_ins is not None:
            rows = self._stand_ins.rows[:, None]
            logps = torch.where(rows, self._stand_ins.logps, logps)
            entropies = None if entropies is None else torch.where(rows, self._stand_ins.entropies, entropies)
        return logps, entropies, None

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
