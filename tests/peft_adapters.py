"""A tiny Llama with each kind of adapter of the installed PEFT, on each kind of layer that it supports."""

import dataclasses

import torch
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": None, "tie_word_embeddings": False, "attn_implementation": "sdpa",
}  # fmt: skip

# Settings that a kind needs beside its defaults, for so small a model
SETTINGS = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "C3A": {"block_size": 8},
    "CPT": {"cpt_token_ids": [3, 4], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 8},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2},
    "P_TUNING": {"encoder_hidden_size": 16},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6, 7]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 32},
}
# Kinds that need something which TRL doesn't pass to a causal model
NEED_MORE = {
    "ADAMSS": "scikit-learn",
    "MULTITASK_PROMPT_TUNING": "a task's number with each row",
    "POLY": "a task's number with each row",
    "SHADOW": "a backbone of its own",
    "XLORA": "trained LoRA adapters on a disk",
}
PLACES = ("q_proj", "down_proj", "embed_tokens", "lm_head", "input_layernorm")
KINDS = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


def tiny_llama(**settings):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **settings})).eval()


def adapted(kind, place, model=None, **settings):
    """The model with an adapter of random values; None if PEFT has no adapter of this kind for this place."""
    config_class = next(config for own, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if own.value == kind)
    fields = {field.name for field in dataclasses.fields(config_class)}
    given = {"task_type": "CAUSAL_LM", **SETTINGS.get(kind, {}), **settings}
    if "num_virtual_tokens" in fields and "cpt_token_ids" not in given:
        given["num_virtual_tokens"] = 4
    if kind == "ADAPTION_PROMPT" or not {"target_modules"} <= fields or "num_virtual_tokens" in fields:
        if place != PLACES[0]:
            return None
    elif kind != "TRAINABLE_TOKENS" or place == "embed_tokens":
        given["target_modules"] = [place]
    else:
        return None
    try:
        model = get_peft_model(tiny_llama() if model is None else model, config_class(**given))
    except (ValueError, TypeError, NotImplementedError, KeyError) as error:
        if place in ("q_proj", "down_proj"):  # which every kind supports
            raise AssertionError(f"tests/peft_adapters.py has no settings for {kind}: {error}") from error
        return None
    randomize(model)
    return model.eval()


def randomize(model, scale=0.3):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
