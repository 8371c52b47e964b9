"""Position ids of left-padded prompts.

TRL passes a model an attention mask, but no `position_ids`. A model with learned positions (GPT-2) then counts them
from the start of the padding, whereas `generate` counts from the first token of the prompt. PEFT's learned prompts
precede the padding, so that their distance to the text grows with it, in `generate` too. Only rotary models are
unaffected, since they depend on distances alone.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.errors import UserError
from lambda_grpo.fast.architectures import MODEL_TYPES

TOKENS, PADDING = 6, 5  # of the sequence that a model is tested with
TOLERANCE = 1e-3  # difference of log-probabilities
NOISE_FACTOR = 4.0  # times the difference that remains with position ids


def correct_positions(model: Any) -> None:
    """If padding changes a causal model's outputs, register a hook that derives position ids from the attention mask.

    To find out, the model is run on a short sequence with and without padding. The hook stays.

    Args:
        model: a causal model, or PEFT around one.

    Raises:
        UserError: its log-probabilities depend on the padding even with position ids.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    has_learned_prompt = any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values())
    weights = [parameter for parameter in base.parameters() if parameter.is_floating_point()]
    is_sharded = any(weight.is_meta or hasattr(weight, "ds_id") for weight in weights)  # it can't be run here
    if is_sharded or (base.config.model_type in MODEL_TYPES and not has_learned_prompt):
        return
    without = with_positions = _error(model)
    rounding = 32 * max(torch.finfo(weight.dtype).eps for weight in weights)
    inner = base.base_model
    if without > TOLERANCE and "position_ids" in inspect.signature(inner.forward).parameters:
        hook = inner.register_forward_pre_hook(_add_positions, with_kwargs=True)
        with_positions = _error(model)
        if without < TOLERANCE + NOISE_FACTOR * with_positions:
            hook.remove()
    if with_positions > max(TOLERANCE, rounding):
        raise UserError(
            f"models of type {base.config.model_type!r} can't be used: prompts are padded on the left, and the model's "
            f"log-probabilities depend on the padding (here by {with_positions:.2g})"
        )


def _add_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or kwargs.get("position_ids") is not None:
        return None
    tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    length = mask.size(1) if tokens is None else tokens.size(1)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)  # as in `generate`
    return args, {**kwargs, "position_ids": positions[:, -length:]}


@torch.no_grad()
def _error(model: Any) -> float:
    """Greatest difference of a short sequence's log-probabilities with and without padding on its left."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    config = model.config.get_text_config()
    ids = (torch.arange(TOKENS, device=model.device) * 7 + 2)[None] % config.vocab_size
    padded = torch.cat([ids.new_full((1, PADDING), config.pad_token_id or 0), ids], 1)
    mask = torch.ones_like(padded)
    mask[:, :PADDING] = 0
    try:
        plain, shifted = (
            model(input_ids=tokens, attention_mask=tokens_mask).logits[:, -TOKENS:].float().log_softmax(-1)
            for tokens, tokens_mask in ((ids, torch.ones_like(ids)), (padded, mask))
        )
    finally:
        for module, was_training in modes:
            module.training = was_training
    return float((plain - shifted).abs().max())
