"""Values formatted for readers: shares in percent, settings in words instead of Python's repr."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

UNNAMED = "an unnamed function"


def percent(share: float) -> str:
    """0.5625 as "56.2 %"."""
    return f"{100 * share:.1f} %"


def percent_range(ends: Sequence[float]) -> str:
    """An interval of shares as "53.1 – 59.2 %"."""
    low, high = ends
    return f"{100 * low:.1f} – {100 * high:.1f} %"


def byte_size(count: float) -> str:
    """Bytes as "1.6 GB" or "25 MB", in powers of 1000."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def counted(count: int, noun: str) -> str:
    """A number of things whose plural ends in s: "1 step", "1,200 steps"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def in_words(value: Any, *, defaults: bool = True) -> str:
    """A setting in words.

    A dataclass is given by its name and fields, a function by its name, a sequence by its members; None and an empty
    sequence are "none".

    Args:
        defaults: whether fields that have their default value are listed. Fields that are None never are.
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
        return ", ".join(f"{key} {in_words(member)}" for key, member in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(in_words, value))
    if is_dataclass(value) and not isinstance(value, type):
        listed = fields_in_words(value, defaults=defaults)
        return f"{_spaced(type(value).__name__)} ({listed})" if listed else _spaced(type(value).__name__)
    name = getattr(value, "__name__", type(value).__name__)
    return _spaced(name) if name.isidentifier() else UNNAMED


def fields_in_words(value: Any, *, defaults: bool = True) -> str:
    """The fields of a dataclass in words, without its name."""
    listed = []
    for field in fields(value):
        setting = getattr(value, field.name)
        if setting is None or (not defaults and setting == _default(field)):
            continue
        name = field.name.replace("_", " ")
        if isinstance(setting, bool):
            listed.append(name if setting else f"no {name}")
        else:
            listed.append(in_words(setting) if is_dataclass(setting) else f"{name} {in_words(setting)}")
    return ", ".join(listed)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _spaced(name: str) -> str:
    """`GeometricMean` as "geometric mean", `inverse_length` as "inverse length"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").strip().lower()
