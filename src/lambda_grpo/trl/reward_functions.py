"""Checks of reward functions in TRL: that they accept TRL's arguments, and return one number per completion.

A function that can't be called with TRL's arguments is refused when the trainer is created. One that raises an
exception, or returns something else, ends the training with one line: its name, the problem, and the columns.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from trl.trainer.utils import is_async_callable

from lambda_grpo.errors import UserError, describe_failure

ALWAYS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")  # what TRL passes
NOT_PASSED = ("prompt", "completion", "completion_ids")  # columns that TRL has in its own arguments
RETURN_NUMBERS = "return a list with a number for each completion, or None where it doesn't apply"


def check_signatures(functions: Iterable[tuple[str, Any]], columns: Sequence[str], extra: Sequence[str] = ()) -> None:
    """Raise UserError if a reward function can't be called as TRL calls it.

    Args:
        functions: each with its name; reward models among them aren't checked.
        columns: of the data set.
        extra: further arguments that are passed.
    """
    passed = {*ALWAYS, *extra, *_passed(columns)}
    for name, function in functions:
        if isinstance(function, nn.Module):
            continue
        try:
            parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
        except (ValueError, TypeError):
            continue  # some callables written in C don't tell
        named = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
        by_position = [
            one.name for one in parameters if one.kind is one.POSITIONAL_ONLY and one.default is inspect.Parameter.empty
        ]
        needed = [one.name for one in parameters if one.name in named and one.default is inspect.Parameter.empty]
        if by_position:
            raise UserError(
                f"reward function {name!r} takes {by_position[0]} by its position, and is called with names: "
                f"take the / out of its parameters. {called_with(columns)}"
            )
        if missing := [parameter for parameter in needed if parameter not in passed]:
            raise UserError(
                f"reward function {name!r} needs {', '.join(missing)}, and the data set has no such column: rename the "
                f"parameter or the column, or give it a default. {called_with(columns)}"
            )
        if not takes_all and (not_taken := [one for one in (*ALWAYS, *_passed(columns)) if one not in named]):
            raise UserError(
                f"reward function {name!r} doesn't take {', '.join(not_taken)}: add **kwargs to its parameters. "
                f"{called_with(columns)}"
            )


def called_with(columns: Iterable[str]) -> str:
    """A sentence on what reward functions get."""
    own = ", ".join(_passed(columns)) or "none"
    return f"Reward functions are called with {', '.join(ALWAYS)}, and the data set's other columns: {own}"


@contextmanager
def checked(trainer: Any, columns: Sequence[str], count: int) -> Iterator[None]:
    """Let a trainer's reward functions say what is wrong with them, while TRL calls them.

    Args:
        columns: of the batch.
        count: of its completions.

    Raises:
        UserError: from what the function raised, or where it returned something else than `count` rewards.
    """
    functions = trainer.reward_funcs
    trainer.reward_funcs = [
        function if isinstance(function, nn.Module) else _checked(function, name, columns, count)
        for function, name in zip(functions, trainer.reward_func_names, strict=True)
    ]
    try:
        yield
    finally:
        trainer.reward_funcs = functions


def _checked(function: Callable[..., Any], name: str, columns: Sequence[str], count: int) -> Callable[..., Any]:
    is_ours = str(getattr(function, "__module__", "")).startswith("lambda_grpo.")

    def said(error: Exception) -> Exception:
        """What is raised in place of an exception: itself, where it says all, or is a fault of this package."""
        if is_ours or isinstance(error, UserError):
            return error
        said = UserError(f"reward function {name!r} failed: {describe_failure(error)}. {called_with(columns)}")
        said.__cause__ = error
        return said

    def rewards(returned: Any) -> list[float | None]:
        try:
            return as_rewards(returned, count)
        except ValueError as error:
            raise UserError(f"reward function {name!r} {error}: {RETURN_NUMBERS}. {called_with(columns)}") from error

    if is_async_callable(function):

        async def called_async(**arguments: Any) -> list[float | None]:
            try:
                returned = await function(**arguments)
            except Exception as error:
                raise said(error)  # noqa: B904 - its cause is set
            return rewards(returned)

        return called_async

    def called(**arguments: Any) -> list[float | None]:
        try:
            returned = function(**arguments)
        except Exception as error:
            raise said(error)  # noqa: B904 - its cause is set
        return rewards(returned)

    return called


def as_rewards(returned: Any, count: int) -> list[float | None]:
    """What a reward function returned, as numbers.

    A list, a tuple, an array or a tensor of one dimension, or anything else that gives one value after another.

    Raises:
        ValueError: it isn't `count` finite numbers or None (NaN counts as None); with what it is, in words.
    """
    if returned is None or isinstance(returned, str | bytes | Mapping | set | frozenset):
        raise ValueError(f"returned {_shown(returned)}")
    shape = getattr(returned, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"returned {_article(type(returned).__name__)} of shape {tuple(shape)}")
    try:
        values = returned.tolist() if hasattr(returned, "tolist") else list(returned)
    except TypeError as error:  # not iterable
        raise ValueError(f"returned {_shown(returned)}") from error
    if len(values) != count:
        raise ValueError(
            f"returned {len(values)} {'reward' if len(values) == 1 else 'rewards'} for {count} completions"
        )
    return [_as_reward(value, place) for place, value in enumerate(values)]


def _as_reward(value: Any, place: int) -> float | None:
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    if value is None:
        return None
    if not isinstance(value, numbers.Real) or math.isinf(value):
        raise ValueError(f"returned {_shown(value)} for completion {place}")
    return float(value)


def _passed(columns: Iterable[str]) -> list[str]:
    return [column for column in columns if column not in NOT_PASSED]


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    text = " ".join(repr(value).split())
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{_article(type(value).__name__)} ({shown})"


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"
