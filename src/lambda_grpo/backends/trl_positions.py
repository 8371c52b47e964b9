"""Positions of tokens in TRL's left-padded rows.

TRL hands a model an attention mask, but no `position_ids`. A model with learned positions (GPT-2) counts them from the
row's beginning then, padding included, where `generate` and any other reader of the prompt count from its first token.
Rotary models see no difference: only distances matter to them.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.architectures import MODEL_TYPES
from lambda_grpo.errors import UserError

TOKENS, PADDING = 6, 5  # of the row by which a model is tried
WORSE = 4.0  # times the rounding that the same row has without padding


def correct_positions(model: Any) -> None:
    """Let a causal model count positions from each row's first token, if it doesn't: by a hook, which stays.

    A short row is read with and without padding to find out.

    Args:
        model: a causal model, or PEFT around one.

    Raises:
        UserError: its log-probabilities depend on the padding, and positions don't help.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = list(base.parameters())
    is_spread = any(parameter.is_meta or hasattr(parameter, "ds_id") for parameter in parameters)
    if base.config.model_type in MODEL_TYPES or is_spread:
        return
    inner = base.base_model
    accepts = "position_ids" in inspect.signature(inner.forward).parameters
    without = _error(base)
    exact = _error(base, with_positions=True) if accepts else without
    rounding = 32 * max(torch.finfo(parameter.dtype).eps for parameter in parameters if parameter.is_floating_point())
    if min(without, exact) > max(1e-3, rounding):
        raise UserError(
            f"models of type {base.config.model_type!r} can't be trained: TRL pads prompts on the left, and their "
            f"log-probabilities depend on the padding (here by {min(without, exact):.2g})"
        )
    is_hooked = _add_positions in inner._forward_pre_hooks.values()
    if without > 1e-3 + WORSE * exact and not is_hooked:
        inner.register_forward_pre_hook(_add_positions, with_kwargs=True)


def _add_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or kwargs.get("position_ids") is not None:
        return None
    tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    length = mask.size(1) if tokens is None else tokens.size(1)
    return args, {**kwargs, "position_ids": _positions(mask)[:, -length:]}


def _positions(mask: Tensor) -> Tensor:
    """(B, L) as `generate` has them."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def _error(base: Any, *, with_positions: bool = False) -> float:
    """Greatest difference of a short row's log-probabilities with and without padding on its left."""
    modes = [(module, module.training) for module in base.modules()]
    base.eval()
    device, vocabulary = base.device, base.config.get_text_config().vocab_size
    row = (torch.arange(TOKENS, device=device) * 7 + 2)[None] % vocabulary
    padded = torch.cat([row.new_zeros(1, PADDING), row], 1)
    mask = torch.ones_like(padded)
    mask[:, :PADDING] = 0
    given = {"position_ids": _positions(mask)} if with_positions else {}
    try:
        plain = base(input_ids=row, attention_mask=torch.ones_like(row)).logits
        shifted = base(input_ids=padded, attention_mask=mask, **given).logits[:, PADDING:]
    finally:
        for module, was_training in modes:
            module.training = was_training
    return float((plain.float().log_softmax(-1) - shifted.float().log_softmax(-1)).abs().max())
