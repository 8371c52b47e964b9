"""A close name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest of the `known` names, or an empty string where none is close."""
    close = close_name(name, known)
    return "" if close is None else f' (did you mean "{close}"?)'


def close_name(name: str, known: Iterable[str]) -> str | None:
    """The closest of the `known` names; None where none is close.

    Capital letters don't count, nor whether it is a hyphen or an underscore.
    """
    by_key = {_key(one): one for one in known}
    close = difflib.get_close_matches(_key(name), by_key, n=1)
    return by_key[close[0]] if close else None


def _key(name: str) -> str:
    return name.casefold().replace("-", "_")
