"""Which models the fast sampler and the packed pass support: those whose every module they know exactly.

Those are unmodified Llama, Qwen2 and Qwen3 models of transformers' own classes, with or without PEFT: no replaced
forward, no hook that could change a value, no unknown layer or adapter. Anything else raises an `UnsupportedError` that
names it, so that the caller can leave the model to TRL.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformers.activations import SiLUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lambda_grpo.errors import LambdaGRPOError

MODEL_TYPES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}  # with the prefix of their classes' names
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others depend on the sequence length
SILU = (nn.SiLU, SiLUActivation)
PACKED_ATTENTION = "lambda_grpo_packed"  # the packed pass's; the same function as "sdpa" outside of it
# As in transformers' registry, which has no "eager": each model's file defines its own
ATTENTION = {"eager": None, "sdpa": sdpa_attention_forward}

ROLES = {"ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding"}
PLAIN = {
    nn.Linear, nn.Embedding, nn.ModuleList, nn.ModuleDict, nn.ParameterDict, nn.Identity, nn.Dropout, *SILU
}  # fmt: skip
WRAPPERS = {
    "peft.peft_model.PeftModel", "peft.peft_model.PeftModelForCausalLM", "peft.utils.other.ModulesToSaveWrapper"
}  # fmt: skip
# Hooks that change no value, by their module and name
HARMLESS_HOOKS = {
    ("transformers.modeling_utils", "make_inputs_require_grads"),
    ("peft.peft_model", "make_inputs_require_grad"),
    ("peft.utils.other", "make_inputs_require_grad"),
    ("transformers.utils.output_capturing", "output_capturing_hook"),
    ("lambda_grpo.fast.packing.model", "_drop_prompts"),
    ("lambda_grpo.fast.positions", "_add_positions"),
}
# Wrappers of a model's forward that don't change it, and the variable in which each holds the wrapped function
FORWARD_WRAPPERS = {
    ("trl.trainer.utils", "_fused_forward"): "original_forward",
    ("accelerate.utils.operations", "forward"): "model_forward",
    ("torch.amp.autocast_mode", "decorate_autocast"): "func",
}
# Methods that generation or the head depend on: an instance whose attribute replaces one isn't supported
METHODS = {
    "generate", "prepare_inputs_for_generation", "get_input_embeddings", "get_output_embeddings", "_sample",
    "_get_logits_processor", "_get_stopping_criteria", "_prepare_generation_config",
}  # fmt: skip
# Options that change the logits, in other architectures and in TRL's fused head
LOGIT_OPTIONS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class UnsupportedError(LambdaGRPOError, ValueError):
    """A model or a setting that isn't known exactly; the message says what, as a noun."""


def supported_decoder(model: Any, adapters: frozenset[str]) -> Any:
    """The causal model inside PEFT, or the model itself, after a check that all of it is supported.

    Args:
        model: a causal model, or PEFT around one.
        adapters: full names of the classes of PEFT's modules that it may contain.

    Raises:
        UnsupportedError: a module isn't supported or has been changed.
    """
    base = _unwrapped(model)
    _check_config(base)
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise UnsupportedError("hooks on the forward of every module")
    for module in model.modules():
        kind: Any = type(module)
        if not _is_known(kind, kind.forward, adapters):
            raise UnsupportedError(f"{_describe(kind)} ({_name(model, module)})")
        if module._forward_hooks or module._forward_pre_hooks:
            _check_hooks(model, module)
        if "forward" in vars(module) and _innermost(module.forward) is not kind.forward:
            raise UnsupportedError(f"a forward that replaces the class's own ({_name(model, module)})")
        if _role(kind) == "Attention":
            _check_attention(module)
    for method in METHODS & (vars(model).keys() | vars(base).keys()):
        raise UnsupportedError(f"a model whose {method} was replaced")
    return base


def role(module: nn.Module) -> str | None:
    """The role of a module in a supported decoder, one of `ROLES`; None for a module of any other class."""
    kind: Any = type(module)
    return _role(kind)


def full_name(kind: type) -> str:
    """A class's name with the module that defines it."""
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _role(kind: Any) -> str | None:
    for model_type, prefix in MODEL_TYPES.items():
        if kind.__module__ == f"transformers.models.{model_type}.modeling_{model_type}":
            found = kind.__qualname__.removeprefix(prefix)
            return found if found in ROLES else None
    return None


def _is_decoder_module(kind: Any) -> bool:
    return kind in PLAIN or _role(kind) is not None


@cache
def _is_known(kind: Any, forward: Any, adapters: frozenset[str]) -> bool:
    """Whether a class is known, and its forward and everything that it wraps come from the class's library."""
    if not (_is_decoder_module(kind) or full_name(kind) in WRAPPERS or full_name(kind) in adapters):
        return False
    while forward is not None:
        if _origin(forward)[0].split(".")[0] not in ("torch", "transformers", "peft"):
            return False
        forward = getattr(forward, "__wrapped__", None)
    return True


def _origin(function: Any) -> tuple[str, str]:
    """Module and name of a function's code, unlike `__module__` and `__name__`, which `functools.wraps` copies."""
    if not hasattr(function, "__globals__"):
        return "", ""
    return function.__globals__.get("__name__", ""), function.__code__.co_name


def _unwrapped(model: Any) -> Any:
    base = model
    if full_name(type(model)) in WRAPPERS:
        for adapter in model.peft_config.values():
            if adapter.is_prompt_learning or adapter.is_adaption_prompt:
                raise UnsupportedError(f"peft's {adapter.peft_type.value.lower()} adapters")
        base = model.get_base_model()
    if base.config.model_type not in MODEL_TYPES:
        raise UnsupportedError(f"models of type {base.config.model_type!r} (supported: {', '.join(MODEL_TYPES)})")
    if role(base) != "ForCausalLM":
        raise UnsupportedError(f"models of the class {full_name(type(base))}")
    return base


def _check_config(base: Any) -> None:
    config = base.config
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
        raise UnsupportedError("sliding-window attention")
    if config.hidden_act != "silu":
        raise UnsupportedError(f"the activation {config.hidden_act!r}")
    rope_type = getattr(base.model.rotary_emb, "rope_type", None)
    if rope_type not in ROPE_TYPES:
        raise UnsupportedError(f"RoPE scaling of type {rope_type!r}")
    if getattr(base, "quantization_method", None) is not None or getattr(base, "hf_quantizer", None) is not None:
        raise UnsupportedError("quantized weights")
    for option in LOGIT_OPTIONS:
        if getattr(config, option, None) is not None:
            raise UnsupportedError(f"the option {option} = {getattr(config, option)!r}")
    kind = config._attn_implementation
    if kind != PACKED_ATTENTION and (kind not in ATTENTION or ALL_ATTENTION_FUNCTIONS.get(kind) is not ATTENTION[kind]):
        raise UnsupportedError(f"the attention implementation {kind!r}")


def _check_attention(module: Any) -> None:
    if not module.is_causal or getattr(module, "sliding_window", None) is not None:
        raise UnsupportedError("attention that isn't causal over all previous tokens")
    if module.scaling != module.head_dim**-0.5:
        raise UnsupportedError("a scale of the attention scores other than 1 / √head_dim")
    if module.training and module.attention_dropout > 0:
        raise UnsupportedError(f"dropout while training (attention_dropout = {module.attention_dropout})")


def _check_hooks(model: Any, module: Any) -> None:
    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
        if _origin(hook) not in HARMLESS_HOOKS:
            raise UnsupportedError(f"forward hooks ({getattr(hook, '__qualname__', hook)} on {_name(model, module)})")


def _innermost(forward: Any) -> Any:
    """The function inside the wrappers that don't change a forward."""
    function = getattr(forward, "__func__", forward)
    if isinstance(function, partial) and _origin(function.func)[0] == "lambda_grpo.fast.packing.native_layers":
        return type(function.args[0]).forward  # the same function in native code
    if full_name(type(function)) == "accelerate.utils.operations.ConvertOutputsToFp32":
        return _innermost(function.model_forward)
    variable = FORWARD_WRAPPERS.get(_origin(function))
    if variable is None:
        return function
    cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    return _innermost(cells[variable].cell_contents)


def _describe(kind: Any) -> str:
    if kind.__module__.startswith("peft.tuners."):
        return f"peft's {kind.__module__.split('.')[2]} adapters: {kind.__qualname__}"
    if _is_decoder_module(kind):
        return f"a replaced forward of the class {kind.__qualname__}"
    return f"modules of the class {full_name(kind)}"


def _name(model: Any, module: Any) -> str:
    """A module's name in the model."""
    return next((name for name, found in model.named_modules() if found is module), "") or "the model"
