"""The packed training pass of a Hugging Face decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lambda_grpo.fast.architectures import PACKED_ATTENTION, UnsupportedError, supported_decoder
from lambda_grpo.fast.packing import torch_attention
from lambda_grpo.fast.packing.layout import Layout
from lambda_grpo.fast.packing.native_head import native_head
from lambda_grpo.fast.packing.native_layers import use_native_layers

# PEFT's modules that compute each token independently of the others
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
LORA_VARIANTS = {"DoraLinearVariant", "DoraEmbeddingVariant"}  # which do so, too


def check_packable(model: Any) -> None:
    """Raise UnsupportedError if a packed pass could differ from the model's own forward; the message names why."""
    base = supported_decoder(model, ADAPTERS)
    if base.config._attn_implementation not in ("sdpa", PACKED_ATTENTION):  # the latter: already prepared
        raise UnsupportedError(f"the attention implementation {base.config._attn_implementation!r}")
    if base.config.attention_dropout > 0:
        raise UnsupportedError(f"attention_dropout = {base.config.attention_dropout}")
    if hasattr(base.lm_head, "base_layer"):  # TRL's fused head reads lm_head.weight alone
        raise UnsupportedError("an adapter on lm_head")
    for module in model.modules():
        for variant in vars(module).get("lora_variant", {}).values():
            if type(variant).__name__ not in LORA_VARIANTS:
                raise UnsupportedError(f"LoRA as {type(variant).__name__}")


def prepare(model: Any, *, native: bool = True) -> None:
    """Prepare a causal model with TRL's fused head, or PEFT around one, for `packed_pass`.

    Its other forward passes stay the same function. Preparing a model twice changes nothing.

    Args:
        native: whether its layers may use native code where they can, in other forward passes too.

    Raises:
        UnsupportedError: the packed pass wouldn't be exact for this model (`check_packable`).
    """
    check_packable(model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    torch_attention.register()
    base.set_attn_implementation(PACKED_ATTENTION)
    if _drop_prompts not in base.base_model._forward_hooks.values():
        base.base_model.register_forward_hook(_drop_prompts, with_kwargs=True)
    if native:
        use_native_layers(model)


def packed_pass(model: Any, layout: Layout) -> Any:
    """The output of a prepared model, with (1, S) log-probabilities and entropies of the completions' tokens."""
    with native_head():
        return model(
            input_ids=layout.ids,
            position_ids=layout.positions,
            attention_mask=torch.zeros(1, 1, 1, 1),  # unused; transformers builds no mask if it is given a 4-D one
            shift_labels=layout.labels,
            fused_lm_head=True,
            packed_layout=layout,
        )


def _drop_prompts(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Drop the prompts' hidden states: the head is only needed for the segments."""
    layout: Layout | None = kwargs.get("packed_layout")
    if layout is not None:
        hidden: Tensor = output.last_hidden_state
        output.last_hidden_state = hidden[:, layout.prompt_length :]
    return output
