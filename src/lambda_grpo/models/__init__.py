"""Resolving model names and loading models; the built-in policies."""

from lambda_grpo.models.loading import (
    BUILTIN,
    BUILTIN_LLAMA,
    TrainingInfo,
    load_model,
    load_tokenizer,
    merge_adapter,
    model_name,
    resolve_model,
    training_info,
    weights_id,
)

__all__ = [
    "BUILTIN",
    "BUILTIN_LLAMA",
    "TrainingInfo",
    "load_model",
    "load_tokenizer",
    "merge_adapter",
    "model_name",
    "resolve_model",
    "training_info",
    "weights_id",
]
