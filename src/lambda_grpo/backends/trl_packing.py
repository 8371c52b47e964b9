"""The packed training pass behind TRL's log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from lambda_grpo import packing
from lambda_grpo.rollout.decoder import MODEL_TYPES


class PackingTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` whose forward passes have no padding and read a prompt once, where `args.packing` is on.

    On a CPU, for decoders with full attention; elsewhere TRL's own pass is taken. Values and gradients are TRL's, to
    rounding: its own head makes log-probabilities and entropies of the packed row.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._packs = self.args.packing and self._can_pack()
        self._unused: tuple[Tensor, Tensor] | None = None  # (B,) rows without loss, and what stands for their logps
        if self._packs:
            packing.keep_freed_memory()
            for model in (self.model, self.ref_model):
                if model is not None:
                    packing.prepare(
                        self.accelerator.unwrap_model(model), compiled=self.accelerator.mixed_precision == "no"
                    )

    def _can_pack(self) -> bool:
        config = self.accelerator.unwrap_model(self.model).config
        kinds = getattr(config, "layer_types", None) or []
        return (
            self.accelerator.device.type == "cpu"
            and not self.args.torch_compile
            and config.model_type in MODEL_TYPES
            and config._attn_implementation == "sdpa"
            and config.attention_dropout == 0.0
            and all(kind == "full_attention" for kind in kinds)
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if "tool_mask" in inputs:
            is_unused = (inputs["completion_mask"] * inputs["tool_mask"]).sum(1) == 0
            zeros = torch.zeros(inputs["completion_ids"].shape, device=is_unused.device)
            old = inputs.get("old_per_token_logps")
            self._unused = None if is_unused.all() else (is_unused, zeros if old is None else old)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._unused = None

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
        if not self._packs or has_more or not attention_mask[:, -logits_to_keep:].any():
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
        if self._unused is not None:
            attention_mask = attention_mask * ~self._unused[0][:, None]
        pieces = [
            self._packed_pass(model, ids, mask, logits_to_keep)
            for ids, mask in zip(
                input_ids.split(batch_size or len(input_ids)),
                attention_mask.split(batch_size or len(input_ids)),
                strict=True,
            )
        ]
        logps = torch.cat([logps for logps, _ in pieces])
        if self._unused is not None:
            logps = torch.where(self._unused[0][:, None], self._unused[1], logps)
        entropies = (
            torch.cat([entropies for _, entropies in pieces if entropies is not None]) if compute_entropy else None
        )
        return logps, entropies, None

    def _packed_pass(self, model: Any, ids: Tensor, mask: Tensor, keep: int) -> tuple[Tensor, Tensor | None]:
        """(B, keep) log-probabilities and entropies of the completions, 0 where there is no token.

        A reference model's head gives no entropies.
        """
        layout = packing.pack(ids[:, :-keep], mask[:, :-keep], ids[:, -keep:], mask[:, -keep:])
        with self.accelerator.autocast():
            outputs = packing.packed_pass(model, layout)

        def padded(flat: Tensor) -> Tensor:
            out = flat.new_zeros(len(ids), keep)
            return out.index_put((layout.rows, layout.columns), flat[0])

        return padded(outputs.log_probs), None if outputs.entropy is None else padded(outputs.entropy)
