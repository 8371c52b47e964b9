"""Suggestions for misspelt names: the one place that makes them."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest of the `known` names, or an empty string where none is close.

    Upper and lower case are the same, and so are hyphens and underscores.
    """
    by_key = {_key(one): one for one in known}
    letters = sorted(_key(name))
    close = difflib.get_close_matches(_key(name), by_key, n=5)  # the closest first
    close.sort(key=lambda one: sorted(one) != letters)  # transposed letters are the likeliest typo
    return f' (did you mean "{by_key[close[0]]}"?)' if close else ""


def did_you_mean_option(argument: str, known: Iterable[str]) -> str:
    """The same for a command line's `--name` or `--name=value`; `known` are names without the hyphens."""
    name = argument.split("=")[0].lstrip("-")
    return did_you_mean(f"--{name}", [f"--{one}" for one in known])


def not_a_choice(name: str, value: object, choices: Sequence[object]) -> str:
    """The message for a setting that isn't one of several words; `name` as the user wrote it."""
    *others, last = map(repr, choices)
    meant = did_you_mean(str(value), map(str, choices))
    return f"{name} is {value!r}{meant}: use {', '.join(others)} or {last}"


def check_choice(action: argparse.Action, value: Any) -> None:
    """Replaces `ArgumentParser._check_value`. Raises ArgumentError if the value isn't one of the action's choices."""
    if action.choices is not None and value not in action.choices:
        choices = [str(one) for one in action.choices]
        raise argparse.ArgumentError(
            action, f"invalid choice: {value!r}{did_you_mean(str(value), choices)}, choose from {', '.join(choices)}"
        )


def _key(name: str) -> str:
    return name.casefold().replace("-", "_")
