"""A Hugging Face decoder that reads a `Layout`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lambda_grpo.fast.architectures import PACKED_ATTENTION, UnsupportedError, known_decoder
from lambda_grpo.fast.packing import torch_attention
from lambda_grpo.fast.packing.layers import use_compiled
from lambda_grpo.fast.packing.layout import Layout

# PEFT's modules that compute each token by itself, whatever stands beside it
ADAPTERS = frozenset(
    f"peft.tuners.{name}"
    for name in (
        "lora.model.LoraModel", "lora.layer.Linear", "lora.layer.Embedding", "lora.dora.DoraLinearLayer",
        "lora.dora.DoraEmbeddingLayer", "loha.model.LoHaModel", "loha.layer.Linear", "lokr.model.LoKrModel",
        "lokr.layer.Linear", "vera.model.VeraModel", "vera.layer.Linear", "_buffer_dict.BufferDict",
        "oft.model.OFTModel", "oft.layer.Linear", "oft.layer.Embedding", "oft.layer.OFTRotationModule",
        "boft.model.BOFTModel", "boft.layer.Linear", "hra.model.HRAModel", "hra.layer.HRALinear",
        "fourierft.model.FourierFTModel", "fourierft.layer.FourierFTLinear", "miss.model.MissModel",
        "miss.layer.MissLinear", "ia3.model.IA3Model", "ia3.layer.Linear", "ln_tuning.model.LNTuningModel",
        "ln_tuning.layer.LNTuningLayer",
    )
)  # fmt: skip
LORA_VARIANTS = {"DoraLinearVariant", "DoraEmbeddingVariant"}  # likewise


def check_packable(model: Any) -> None:
    """Raise UnsupportedError, naming what would make a packed row another function than the model's own forward."""
    base = known_decoder(model, ADAPTERS)
    if base.config._attn_implementation not in ("sdpa", PACKED_ATTENTION):  # the latter: another trainer's model
        raise UnsupportedError(f"the attention implementation {base.config._attn_implementation!r}")
    if base.config.attention_dropout > 0:
        raise UnsupportedError(f"attention_dropout = {base.config.attention_dropout}")
    if hasattr(base.lm_head, "base_layer"):  # TRL's head reads its weight alone
        raise UnsupportedError("an adapter on lm_head")
    for module in model.modules():
        for variant in vars(module).get("lora_variant", {}).values():
            if type(variant).__name__ not in LORA_VARIANTS:
                raise UnsupportedError(f"LoRA as {type(variant).__name__}")


def prepare(model: Any, *, compiled: bool = True) -> None:
    """Teach a causal model with TRL's fused head, or PEFT around one, to read a layout. Otherwise it stays as it was.

    Once is enough, and twice does no harm.

    Args:
        compiled: whether layers may compute in C, where they can. They do so without a layout too.

    Raises:
        UnsupportedError: not a model for which this is exact (`check_packable`).
    """
    check_packable(model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    torch_attention.register()
    base.set_attn_implementation(PACKED_ATTENTION)
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
