r"""Parsing answers with several values: lists of numbers, named values, points.

"x = 1, y = 2" is (1, 2) and never 2, 1. Named values are compared by name with each other, and in order with a list
without names; single letters are ordered alphabetically.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"(?:\\(?:bar|hat|tilde|overline)\s*\{\s*[A-Za-z]\s*\}|\\[A-Za-z]+|[A-Za-z](?![A-Za-z]))(?:_\{[^{}]*\})?'*"
_NAMED = re.compile(
    rf"(?:\\text\{{\s*)?({_NAME}(?:\([^()=]*\))?|[A-Za-z]{{2,}}(?:\s+[a-z]+)*)\s*\}}?\s*(?:=|:)\s*([^=]+)"
)
_POINT = re.compile(rf"[(\[]\s*({_NAME}(?:\s*,\s*{_NAME})+)\s*[)\]]\s*=\s*[(\[](.*)[)\]]")
_SEPARATOR = re.compile(
    r"\s*(?:[,;]?\s*\\text\{\s*,?\s*(?:and|or)\s*\}|[,;]?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[,;]|&|\\text\{\s*[,;]\s*\}|"
    r"\\q?quad(?:\s*\\q?quad)*)\s*"
)
_OPEN, _CLOSED = "([{", ")]}"


@dataclass(frozen=True)
class Values:
    """Several values with their names, or None without names, and the brackets around them.

    `are_indexed`: whether names differ only by an index, like x_1 and x_2, which may be solutions for one variable.
    """

    values: tuple[str, ...]
    names: tuple[str, ...] | None = None
    brackets: str = ""
    are_indexed: bool = False


def split_items(text: str) -> list[str]:
    """The items of an answer in canonical LaTeX, split at commas, "and" and "or" outside brackets."""
    parts, start, depth, i = [], 0, 0, 0
    while i < len(text):
        separator = _SEPARATOR.match(text, i) if depth == 0 else None
        if separator and separator.end() > i:
            parts.append(text[start:i])
            start = i = separator.end()
            continue
        if text.startswith((r"\{", r"\}"), i):
            i += 1
        depth += (text[i] in _OPEN) - (text[i] in _CLOSED)
        i += 1
    parts.append(text[start:])
    return [part for part in (part.strip() for part in parts) if part]


def parse_values(text: str) -> Values | None:
    """The values of an answer in canonical LaTeX; None if it is a single value."""
    point = _POINT.fullmatch(text)
    if point:
        names, values = split_items(point.group(1)), split_items(point.group(2))
        return _by_name(names, values, "()") if len(names) == len(values) else None
    kind = bracket_kind(text)
    inner = text
    if kind is not None:
        inner = re.sub(r"^\\?[(\[{]|\\?[)\]}]$", "", text.strip())
    elif re.match(r"[(\[]", text) and text.endswith((")", "]")) and re.search(r"[,=]", text) and _encloses(text):
        inner = text[1:-1]
    parts = split_items(inner)
    if len(parts) < 2:
        return None
    named = [_NAMED.fullmatch(part) for part in parts]
    if all(named):
        return _by_name([one.group(1) for one in named if one], [one.group(2) for one in named if one], kind or "")
    if any(re.search(r"=|<|>|\\(?:le|ge|ne)\b", part) for part in parts):
        return None
    return Values(tuple(parts), None, kind or "")


def _by_name(names: list[str], values: list[str], kind: str) -> Values | None:
    names = [re.sub(r"\s", "", name) for name in names]
    if len(set(names)) < len(names):
        return None  # x = 2 or x = 7: solutions for one variable
    are_indexed = len({_stem(name) for name in names}) < len(names)
    return Values(tuple(value.strip() for value in values), tuple(names), kind, are_indexed)


def _stem(name: str) -> str:
    return name.split("_")[0]


def ordered_values(values: Values) -> tuple[str, ...]:
    """The values in the order of a list without names: alphabetically by name if all names are single letters."""
    if values.names is not None and all(re.fullmatch(r"[A-Za-z]", name) for name in values.names):
        return tuple(value for _, value in sorted(zip(values.names, values.values, strict=True)))
    return values.values


def bracket_kind(text: str) -> str | None:
    r"""The brackets around a list: "[)" for [1, 2); None for anything else."""
    text = text.replace(r"\{", "{").replace(r"\}", "}").strip()
    if len(text) < 3 or text[0] not in "([{" or text[-1] not in ")]}" or "," not in text:
        return None
    return text[0] + text[-1] if _encloses(text) else None


def _encloses(text: str) -> bool:
    """Whether the first bracket of the text is closed by the last one."""
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and i < len(text) - 1:
            return False  # a union, or a list of several
    return True
