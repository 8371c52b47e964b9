"""A Hugging Face decoder that reads a `Layout`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lambda_grpo.packing import torch_attention
from lambda_grpo.packing.layers import use_compiled
from lambda_grpo.packing.layout import Layout


def prepare(model: Any, *, compiled: bool = True) -> None:
    """Teach a causal model with TRL's fused head, or PEFT around one, to read a layout. Otherwise it stays as it was.

    Once is enough, and twice does no harm.

    Args:
        compiled: whether layers may compute in C, where they can. They do so without a layout too.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    torch_attention.register()
    base.set_attn_implementation(torch_attention.IMPLEMENTATION)
    if _drop_prompts not in base.base_model._forward_hooks.values():
        base.base_model.register_forward_hook(_drop_prompts, with_kwargs=True)
    if compiled:
        use_compiled(model)


def packed_pass(model: Any, layout: Layout) -> Any:
    """A prepared model's output, with (1, S) log-probabilities and entropies of the layout's completions."""
    return model(
        input_ids=layout.ids,
        position_ids=layout.positions,
        attention_mask=torch.zeros(1, 1, 1, 1),  # made already: transformers leaves a mask of four axes alone
        shift_labels=layout.labels,
        fused_lm_head=True,
        packed_layout=layout,
    )


def _drop_prompts(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """The head is for what completions' tokens predict."""
    layout: Layout | None = kwargs.get("packed_layout")
    if layout is not None:
        hidden: Tensor = output.last_hidden_state
        output.last_hidden_state = hidden[:, layout.prompt_length :]
    return output
