"""The weights of a Hugging Face decoder, as the sampler needs them.

Qwen2, Qwen3 and Llama have the same layer: RMSNorm, grouped-query attention with rotary embeddings, SwiGLU.
`torch_step` and `native_step` compute it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lambda_grpo.fast.architectures import SILU, UnsupportedError, full_name, role, supported_decoder

LORA = {"peft.tuners.lora.model.LoraModel", "peft.tuners.lora.layer.Linear", "peft.tuners.lora.layer.Embedding"}
# PEFT's modules that hold trained copies of another module: the attributes of the original and of the copies
COPIES = {
    "peft.utils.other.ModulesToSaveWrapper": ("original_module", "modules_to_save"),
    "peft.tuners.ln_tuning.layer.LNTuningLayer": ("base_layer", "ln_tuning_layers"),
}
ADAPTERS = frozenset({*LORA, *COPIES, "peft.tuners.ln_tuning.model.LNTuningModel"})


@dataclass(frozen=True)
class Layer:
    """One layer's weights, (out, in) as in `nn.Linear`; queries, keys and values are joined, and so are gate and up."""

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
    """A snapshot of a model's weights with its LoRA adapters merged; outdated once the weights change.

    Raises:
        UnsupportedError: the architecture or one of its options isn't supported, or a module isn't as transformers and
            PEFT define it (`architectures`).
    """

    def __init__(self, model: Any):
        base: Any = supported_decoder(model, ADAPTERS)
        config = base.config
        self.base: Any = base
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.hidden, self.intermediate = config.hidden_size, config.intermediate_size
        model = self._module(base.model, "Model")
        self._module(model.rotary_emb, "RotaryEmbedding")
        self.epsilon: float = self._module(model.norm, "RMSNorm").variance_epsilon
        self.embedding: Tensor = _embedding(model.embed_tokens)
        self.head, bias = _linear(base.lm_head)
        if bias is not None:
            raise UnsupportedError("a head with a bias")
        self.final_norm: Tensor = self._norm(model.norm)
        self.layers = [self._layer(layer) for layer in model.layers[: config.num_hidden_layers]]
        of_layers = (value for layer in self.layers for value in vars(layer).values() if value is not None)
        self.weights: list[Tensor] = [self.embedding, self.head, self.final_norm, *of_layers]
        if any(weight.is_meta or weight.device != self.device for weight in self.weights):
            raise UnsupportedError("weights on several devices")
        if any(weight.dtype != self.embedding.dtype for weight in self.weights):
            raise UnsupportedError("weights of different dtypes")

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.embedding.device

    def rotation(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cos and sin of the rotary embedding at positions 0 .. positions − 1, (positions, head_dim)."""
        ids = torch.arange(positions, device=self.device)[None]
        cos, sin = self.base.model.rotary_emb(self.embedding[:1, :1], ids)
        return cos[0], sin[0]

    def _layer(self, layer: Any) -> Layer:
        layer = self._module(layer, "DecoderLayer")
        attention, mlp = self._module(layer.self_attn, "Attention"), self._module(layer.mlp, "MLP")
        if type(mlp.act_fn) not in SILU:
            raise UnsupportedError(f"the activation {full_name(type(mlp.act_fn))}")
        if attention.head_dim != self.head_dim:
            raise UnsupportedError("heads of different sizes")
        of_heads, of_keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        q, k, v = (
            self._linear(module, size, self.hidden)
            for module, size in ((attention.q_proj, of_heads), (attention.k_proj, of_keys), (attention.v_proj, of_keys))
        )
        gate, up = (self._linear(module, self.intermediate, self.hidden) for module in (mlp.gate_proj, mlp.up_proj))
        out = self._linear(attention.o_proj, self.hidden, of_heads)
        down = self._linear(mlp.down_proj, self.hidden, self.intermediate)
        has_norms = self.base.config.model_type == "qwen3"
        return Layer(
            norm=self._norm(layer.input_layernorm),
            qkv=torch.cat([q[0], k[0], v[0]]),
            qkv_bias=_joined([q, k, v]),
            q_norm=self._norm(attention.q_norm) if has_norms else None,
            k_norm=self._norm(attention.k_norm) if has_norms else None,
            out=out[0],
            out_bias=out[1],
            mlp_norm=self._norm(layer.post_attention_layernorm),
            gate_up=torch.cat([gate[0], up[0]]),
            gate_up_bias=_joined([gate, up]),
            down=down[0],
            down_bias=down[1],
        )

    def _module(self, module: Any, name: str) -> Any:
        """The module that is active in the forward, after a check that its class has this role in this architecture."""
        module = _active(module)
        if role(module) != name or type(module).__module__ != type(self.base).__module__:
            raise UnsupportedError(f"{full_name(type(module))} in place of the {name}")
        return module

    def _linear(self, module: Any, rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        weight, bias = _linear(module)
        if weight.shape != (rows, columns):
            raise UnsupportedError("layers of different sizes")
        return weight, bias

    def _norm(self, module: Any) -> Tensor:
        module = self._module(module, "RMSNorm")
        if module.variance_epsilon != self.epsilon:
            raise UnsupportedError("norms with different ε")
        return _float_tensor(module.weight)


def _linear(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, with its LoRA adapters merged."""
    module, deltas = _adapted(layer, "lora_A", "lora_B")
    if type(module) is not nn.Linear:
        raise UnsupportedError(f"{full_name(type(module))} for a linear layer")
    weight, bias = _float_tensor(module.weight), module.bias
    for a, b, scale in deltas:
        if b.bias is not None or {type(a), type(b)} != {nn.Linear}:
            raise UnsupportedError("LoRA with biases")
        weight = weight + _delta(a.weight, b.weight, scale, weight)
    return weight, None if bias is None else _float_tensor(bias)


def _embedding(module: Any) -> Tensor:
    module, deltas = _adapted(module, "lora_embedding_A", "lora_embedding_B")
    if type(module) is not nn.Embedding or module.max_norm is not None:
        raise UnsupportedError(f"{full_name(type(module))} for an embedding")
    weight = _float_tensor(module.weight)
    for a, b, scale in deltas:
        weight = weight + _delta(a, b, scale, weight.T).T
    return weight


def _adapted(module: Any, a: str, b: str) -> tuple[Any, list[tuple[Any, Any, float]]]:
    """The layer that PEFT wraps, and A, B and scale of each LoRA adapter that is active in its forward."""
    module = _active(module)
    if full_name(type(module)) not in LORA:
        return module, []
    if module.disable_adapters and module.merged:
        raise UnsupportedError("adapters that are merged and disabled")
    active = [] if module.disable_adapters or module.merged else module.active_adapters
    adapters = []
    for adapter in active:
        if adapter not in getattr(module, a):
            continue
        if adapter in module.lora_variant:
            raise UnsupportedError(f"LoRA as {type(module.lora_variant[adapter]).__name__}")
        dropout = module.lora_dropout[adapter]
        if type(dropout) is not nn.Identity and dropout.training and dropout.p > 0:
            raise UnsupportedError(f"dropout while training (lora_dropout = {dropout.p}; disable_dropout turns it off)")
        adapters.append((getattr(module, a)[adapter], getattr(module, b)[adapter], module.scaling[adapter]))
    return module.base_layer, adapters


def _delta(a: Tensor, b: Tensor, scale: float, weight: Tensor) -> Tensor:
    if not a.dtype == b.dtype == weight.dtype or weight.dtype not in (torch.float32, torch.float64):
        kinds = " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in (a, b, weight)}))
        raise UnsupportedError(f"LoRA in {kinds}: merged into the weights it would be rounded")
    return (b @ a) * scale


def _active(module: Any) -> Any:
    """The module that is active in the forward: PEFT may keep a trained copy (`modules_to_save`, LN tuning)."""
    kind = full_name(type(module))
    if kind not in COPIES:
        return module
    original, copies = (getattr(module, name) for name in COPIES[kind])
    active = module.active_adapters
    if module.disable_adapters or module.merged_adapters or not active or active[0] not in copies:
        return original
    if len(active) > 1:
        raise UnsupportedError("several adapters with a copy of the same module")
    return copies[active[0]]


def _float_tensor(weight: Any) -> Tensor:
    if type(weight.data) is not Tensor or not weight.is_floating_point():
        raise UnsupportedError("quantized weights, or weights sharded over devices")
    return cast(Tensor, weight)


def _joined(layers: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    if all(bias is None for _, bias in layers):
        return None
    return torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in layers])
