"""A Hugging Face decoder's weights as a sampler needs them.

Qwen2, Qwen3 and Llama share one layer: RMS norm, rotary attention with grouped keys, SwiGLU. `torch_step` and
`compiled_step` compute it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("llama", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others change with the length of what is read


class UnsupportedError(ValueError):
    """The sampler doesn't know this model or setting; the message says which."""


@dataclass(frozen=True)
class Layer:
    """One layer's weights, (out, in) as in `nn.Linear`; queries, keys and values in one matrix, gate and up in one."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Decoder:
    """The weights of a model at this moment: make it anew when they have changed.

    Raises:
        UnsupportedError: another architecture, or one of its options that isn't computed here.
    """

    def __init__(self, model: Any):
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT wraps the model
        check_supported(base)
        config = base.config
        self.base: Any = base
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.hidden, self.intermediate = config.hidden_size, config.intermediate_size
        self.epsilon: float = config.rms_norm_eps
        self.embedding: Tensor = base.get_input_embeddings().weight
        self.head: Tensor = base.get_output_embeddings().weight
        self.final_norm: Tensor = base.model.norm.weight
        self.layers = [_layer(layer) for layer in base.model.layers]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    def rotation(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cos and sin of positions 0 .. positions − 1, (positions, head_dim)."""
        ids = torch.arange(positions, device=self.device)[None]
        cos, sin = self.base.model.rotary_emb(self.embedding[:1, :1], ids)
        return cos[0], sin[0]


def check_supported(model: Any) -> None:
    """Raise UnsupportedError, naming what isn't computed here."""
    config = model.config
    if config.model_type not in MODEL_TYPES:
        raise UnsupportedError(f"models of type {config.model_type!r}: it knows {', '.join(MODEL_TYPES)}")
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
        raise UnsupportedError("sliding-window attention")
    if config.hidden_act != "silu":
        raise UnsupportedError(f"the activation {config.hidden_act!r}")
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise UnsupportedError(f"RoPE scaling of type {rope_type!r}")
    if getattr(model, "quantization_method", None) is not None or getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedError("quantised weights")
    if any(parameter.is_meta or type(parameter.data) is not Tensor for parameter in model.parameters()):
        raise UnsupportedError("weights that are spread over devices")


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [_linear(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
    gate_up = [_linear(module) for module in (mlp.gate_proj, mlp.up_proj)]
    out, down = _linear(attention.o_proj), _linear(mlp.down_proj)
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return Layer(
        norm=layer.input_layernorm.weight,
        qkv=torch.cat([weight for weight, _ in qkv]),
        qkv_bias=_joined(qkv),
        q_norm=None if q_norm is None else q_norm.weight,
        k_norm=None if k_norm is None else k_norm.weight,
        out=out[0],
        out_bias=out[1],
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=torch.cat([weight for weight, _ in gate_up]),
        gate_up_bias=_joined(gate_up),
        down=down[0],
        down_bias=down[1],
    )


def _linear(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, with its LoRA adapters added in."""
    if isinstance(module, nn.Linear):
        return module.weight, module.bias
    if not hasattr(module, "get_delta_weight") or not isinstance(module.base_layer, nn.Linear):
        raise UnsupportedError(f"layers of type {type(module).__name__}")
    weight, bias = module.base_layer.weight, module.base_layer.bias
    for adapter in [] if module.disable_adapters or module.merged else module.active_adapters:
        if adapter not in module.lora_A:
            continue
        if getattr(module, "use_dora", {}).get(adapter) or getattr(module, "lora_bias", {}).get(adapter):
            raise UnsupportedError("LoRA with DoRA or with biases")
        weight = weight + module.get_delta_weight(adapter)
    return weight, bias


def _joined(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    if all(bias is None for _, bias in parts):
        return None
    return torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts])
