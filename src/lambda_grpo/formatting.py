"""Values as a reader sees them: shares in percent, settings in words, never as Python writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

UNNAMED = "one of its author's own"


def percent(share: float) -> str:
    """0.5625 is "56.2 %"."""
    return f"{100 * share:.1f} %"


def percent_range(ends: Sequence[float]) -> str:
    """An interval of shares: "53.1 – 59.2 %"."""
    low, high = ends
    return f"{100 * low:.1f} – {100 * high:.1f} %"


def in_words(value: Any, *, defaults: bool = True) -> str:
    """A setting in words.

    A dataclass is its name and its fields, a function its name, a sequence its members, None and an empty one "none".

    Args:
        defaults: whether a dataclass tells the fields that have their default value. None is never told.
    """
    if value is None or (isinstance(value, list | tuple | set | frozenset | Mapping) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return in_words(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(one)}" for key, one in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(in_words, value))
    if is_dataclass(value) and not isinstance(value, type):
        told = fields_in_words(value, defaults=defaults)
        return f"{_spaced(type(value).__name__)} ({told})" if told else _spaced(type(value).__name__)
    name = getattr(value, "__name__", type(value).__name__)
    return _spaced(name) if name.isidentifier() else UNNAMED


def fields_in_words(value: Any, *, defaults: bool = True) -> str:
    """The fields of a dataclass without its name."""
    told = []
    for field in fields(value):
        own = getattr(value, field.name)
        if own is None or (not defaults and own == _default(field)):
            continue
        name = field.name.replace("_", " ")
        if isinstance(own, bool):
            told.append(name if own else f"no {name}")
        else:
            told.append(in_words(own) if is_dataclass(own) else f"{name} {in_words(own)}")
    return ", ".join(told)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _spaced(name: str) -> str:
    """`GeometricMean` and `inverse_length` as words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").strip().lower()
