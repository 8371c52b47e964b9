"""How large a model is, from its configuration alone: nothing is loaded."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass(frozen=True)
class ModelSize:
    """The size of a causal language model.

    Attributes:
        parameters: their number, those of an adapter included; tied ones count once.
        trained: how many of them are trained.
        layers, hidden, intermediate: layers, and the widths of their residual stream and their feed-forward part.
        key_values: the width of a layer's keys, and of its values.
        vocabulary: number of tokens.
        model_type: transformers' name of the architecture.
    """

    parameters: int
    trained: int
    layers: int
    hidden: int
    intermediate: int
    key_values: int
    vocabulary: int
    model_type: str


def model_size(path: str, revision: str = "main", adapter: Any = None) -> ModelSize | None:
    """The size of a model; None if transformers can't tell (code of its own, or no language model).

    Args:
        path: a directory with a config.json, or a hub id.
        adapter: PEFT's configuration of an adapter that is trained in place of the model; None to train all of it.
    """
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_config(config)
            if adapter is not None:
                from peft import get_peft_model

                model = get_peft_model(model, adapter, low_cpu_mem_usage=True)
    except (OSError, ValueError, ImportError):
        return None
    counts = [(one.numel(), one.requires_grad) for one in model.parameters()]  # a tied parameter comes once
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelSize(
        parameters=sum(count for count, _ in counts),
        trained=sum(count for count, is_trained in counts if is_trained),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        key_values=(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
        vocabulary=text.vocab_size,
        model_type=config.model_type,
    )
