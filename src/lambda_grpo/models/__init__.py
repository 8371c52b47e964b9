"""Which model a name stands for, and loading it; the built-in policies."""

from lambda_grpo.models.loading import (
    BUILTIN,
    BUILTIN_LLAMA,
    load_model,
    load_tokenizer,
    merge_adapter,
    model_name,
    resolve_model,
    training_of,
    weights_id,
)

__all__ = [
    "BUILTIN",
    "BUILTIN_LLAMA",
    "load_model",
    "load_tokenizer",
    "merge_adapter",
    "model_name",
    "resolve_model",
    "training_of",
    "weights_id",
]
