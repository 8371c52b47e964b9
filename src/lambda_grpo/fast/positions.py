"""Positions of tokens in left-padded rows.

TRL hands a model an attention mask, but no `position_ids`. A model with learned positions (GPT-2) then counts them from
the row's beginning, padding included, where `generate` and any other reader of the prompt count from its first token.
A learned prompt of PEFT's stands before the padding, and is farther from the text the more there is of it, also in
`generate`. Rotary models alone see no difference: only distances matter to them.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.errors import UserError
from lambda_grpo.fast.architectures import MODEL_TYPES

TOKENS, PADDING = 6, 5  # of the row by which a model is tried
SMALL = 1e-3  # difference of log-probabilities
WORSE = 4.0  # times what rounding makes of the difference


def correct_positions(model: Any) -> None:
    """Let a causal model count positions by the attention mask, if padding changes it: by a hook, which stays.

    A short row is read with and without padding to find out.

    Args:
        model: a causal model, or PEFT around one.

    Raises:
        UserError: its log-probabilities depend on the padding, and positions don't help.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    has_learned_prompt = any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values())
    weights = [parameter for parameter in base.parameters() if parameter.is_floating_point()]
    is_spread = any(weight.is_meta or hasattr(weight, "ds_id") for weight in weights)  # nothing to try it with
    if is_spread or (base.config.model_type in MODEL_TYPES and not has_learned_prompt):
        return
    without = with_positions = _error(model)
    rounding = 32 * max(torch.finfo(weight.dtype).eps for weight in weights)
    inner = base.base_model
    if without > SMALL and "position_ids" in inspect.signature(inner.forward).parameters:
        hook = inner.register_forward_pre_hook(_add_positions, with_kwargs=True)
        with_positions = _error(model)
        if without < SMALL + WORSE * with_positions:
            hook.remove()
    if with_positions > max(SMALL, rounding):
        raise UserError(
            f"models of type {base.config.model_type!r} can't be used: prompts are padded on the left, and their "
            f"log-probabilities depend on the padding (here by {with_positions:.2g})"
        )


def _add_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or kwargs.get("position_ids") is not None:
        return None
    tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    length = mask.size(1) if tokens is None else tokens.size(1)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)  # as `generate` has them
    return args, {**kwargs, "position_ids": positions[:, -length:]}


@torch.no_grad()
def _error(model: Any) -> float:
    """Greatest difference of a short row's log-probabilities with and without padding on its left."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    config = model.config.get_text_config()
    row = (torch.arange(TOKENS, device=model.device) * 7 + 2)[None] % config.vocab_size
    padded = torch.cat([row.new_full((1, PADDING), config.pad_token_id or 0), row], 1)
    mask = torch.ones_like(padded)
    mask[:, :PADDING] = 0
    try:
        plain, shifted = (
            model(input_ids=ids, attention_mask=own).logits[:, -TOKENS:].float().log_softmax(-1)
            for ids, own in ((row, torch.ones_like(row)), (padded, mask))
        )
    finally:
        for module, was_training in modes:
            module.training = was_training
    return float((plain - shifted).abs().max())
