"""Small random decoders of each known architecture, with the options that change their arithmetic."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZE = {
    "vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.3, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": None, "head_dim": 16,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}


def rope(**settings):
    return {"rope_parameters": {"rope_theta": 10000.0, **settings}}


MODELS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen2, grouped keys, tied": (Qwen2ForCausalLM, Qwen2Config, {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**GROUPED, "head_dim": 32}),
    "qwen3, biases": (Qwen3ForCausalLM, Qwen3Config, {"attention_bias": True}),
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED),
    "llama, biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama, one key head": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 1}),
    "llama, odd sizes": (LlamaForCausalLM, LlamaConfig, {"hidden_size": 44, "intermediate_size": 37, "vocab_size": 50}),
    "llama, linear RoPE": (LlamaForCausalLM, LlamaConfig, rope(rope_type="linear", factor=2.0)),
    "llama, llama3 RoPE": (
        LlamaForCausalLM, LlamaConfig,
        rope(
            rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "qwen2, wide heads": (Qwen2ForCausalLM, Qwen2Config, {"head_dim": 80}),
    "qwen2, yarn": (
        Qwen2ForCausalLM, Qwen2Config, rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    ),
}  # fmt: skip


def make_model(name, **settings):
    torch.manual_seed(0)
    model_class, config_class, own = MODELS[name]
    model = model_class(config_class(**{**SIZE, **own, **settings}))
    for key, value in model.named_parameters():  # biases and norms aren't left at 0 and 1
        if "bias" in key or "norm" in key:
            torch.nn.init.normal_(value, 1.0 if "norm" in key else 0.0, 0.2)
    return model.eval()


def with_lora(model):
    lora = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    for key, value in lora.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value, 0.0, 0.3)
    return lora.eval()
