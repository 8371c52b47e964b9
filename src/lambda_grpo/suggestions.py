"""A close name for a misspelt one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest of the `known` names, or an empty string where none is close."""
    close = close_name(name, known)
    return "" if close is None else f' (did you mean "{close}"?)'


def close_name(name: str, known: Iterable[str]) -> str | None:
    """The closest of the `known` names; None where none is close.

    Capital letters don't count, nor whether it is a hyphen or an underscore.
    """
    by_key = {_key(one): one for one in known}
    letters = sorted(_key(name))
    close = difflib.get_close_matches(_key(name), by_key, n=5)  # the closest one first
    close.sort(key=lambda one: sorted(one) != letters)  # letters that changed their places are a slip of the fingers
    return by_key[close[0]] if close else None


def did_you_mean_option(argument: str, known: Iterable[str]) -> str:
    """The same of a command line's `--name` or `--name=value`, with the hyphens; `known` are names without them."""
    name = argument.split("=")[0].lstrip("-")
    return did_you_mean(f"--{name}", [f"--{one}" for one in known])


def check_choice(action: argparse.Action, value: Any) -> None:
    """In place of `ArgumentParser._check_value`. Raises ArgumentError where an argument isn't one of its choices."""
    if action.choices is not None and value not in action.choices:
        choices = [str(one) for one in action.choices]
        raise argparse.ArgumentError(
            action, f"invalid choice: {value!r}{did_you_mean(str(value), choices)}, choose from {', '.join(choices)}"
        )


def _key(name: str) -> str:
    return name.casefold().replace("-", "_")
