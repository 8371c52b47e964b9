"""Checks of a recipe's settings, before TRL's configuration is created from them.

TRL and transformers accept most values: one of the wrong type or out of range would fail at the first step, when half
a run has been written.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lambda_grpo.errors import UserError
from lambda_grpo.options.text import required_fields, type_in_words
from lambda_grpo.suggestions import did_you_mean

# Ranges of TRL's and transformers' keys, whose fields have none: in words, the check, the keys that it applies to.
# None of them may be infinite or nan.
RANGES: list[tuple[str, Callable[[float], bool], tuple[str, ...]]] = [
    (
        "at least 1",
        lambda x: x >= 1,
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "generation_batch_size", "steps_per_generation", "num_iterations", "max_completion_length",
        ),
    ),
    ("at least 1, or -1 to train for num_train_epochs", lambda x: x >= 1 or x == -1, ("max_steps",)),
    (
        "at least 0",
        lambda x: x >= 0,
        ("learning_rate", "weight_decay", "warmup_steps", "beta", "epsilon", "epsilon_high"),
    ),
    ("above 0", lambda x: x > 0, ("temperature", "repetition_penalty", "num_train_epochs", "adam_epsilon")),
    ("from 0 to 1", lambda x: 0 <= x <= 1, ("min_p",)),
    ("above 0 and at most 1", lambda x: 0 < x <= 1, ("top_p",)),
    ("at least 0 and below 1", lambda x: 0 <= x < 1, ("adam_beta1", "adam_beta2")),
    ("from 0 to 4294967295", lambda x: 0 <= x < 2**32, ("seed",)),  # NumPy's range
]  # fmt: skip

# Types that are accepted beyond those of the hints
EXTRA_TYPES: dict[str, Any] = {
    "debug": None,
    "fsdp": bool | list,
    "lora_target_modules": str,  # "all-linear"
    "scale_rewards": bool,
}
NOT_NULL = {"num_generations"}  # None fits TRL's type hint, but not its code


def check_types(settings: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise UserError, naming the key, if a setting doesn't fit its type hint."""
    for key, value in settings.items():
        hint = hints[key] | EXTRA_TYPES[key] if key in EXTRA_TYPES else hints[key]
        if not _fits(value, hint) or (value is None and key in NOT_NULL):
            shown = "nothing" if value is None else repr(value)
            raise UserError(f"{key} must be {type_in_words(hints[key])}, got {shown}")
        names = [member.value for kind in (hint, *get_args(hint)) if _is_enumeration(kind) for member in kind]
        if names and isinstance(value, str) and value not in names:
            raise UserError(f"{key} is {value!r}{did_you_mean(value, names)}: use {', '.join(names)}")


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raise UserError, naming the key, if a value is outside of its range. None stands for a default and passes."""
    ranges = [(words, is_valid, key) for words, is_valid, keys in RANGES for key in keys]
    # -1 in vLLM is 0 in transformers
    ranges.append(("at least 0 (0: no limit)", lambda x: x >= (-1 if values.get("use_vllm") else 0), "top_k"))
    for name in ("logging", "save", "eval"):
        if values[f"{name}_strategy"] == "steps":
            ranges.append(("above 0", lambda x: x > 0, f"{name}_steps"))
    for words, is_valid, key in ranges:
        value = values.get(key)  # a supervised warm-up has fewer keys
        if value is not None and not (math.isfinite(value) and is_valid(value)):
            raise UserError(f"{key} must be {words}, got {value}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if hint is Any:
        return True
    kind = origin or hint
    if is_dataclass(kind) and isinstance(value, dict):
        inner = get_type_hints(kind)
        return required_fields(kind) <= value.keys() <= inner.keys() and all(
            _fits(value[key], inner[key]) for key in value
        )
    return isinstance(value, str if issubclass(kind, Enum) else kind)  # the library converts names to its enumerations


def _is_enumeration(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)
