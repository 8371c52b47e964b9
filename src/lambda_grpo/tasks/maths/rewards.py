r"""Reward functions for maths, as TRL calls them: each is logged under its own name.

The third usual reward, the soft overlong punishment, is TRL's: the setting `overlong_buffer_length` adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.grading import grade_math
from lambda_grpo.grading.extraction import closed_box, reference_answer

Completions = Sequence[str] | Sequence[Sequence[dict[str, Any]]]


def math_accuracy(
    completions: Completions,
    answer: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float]:
    """1 for a correct answer, 0 for a wrong one (`grade_math`).

    Args:
        completions: B texts or conversations.
        answer, solution: the data set's column of that name, whichever it has: the reference answer, or a solution that
            ends with `####` or a box.
        log_metric: TRL's function, which logs the share of completions whose grading timed out.

    Raises:
        UserError: the data set has neither column.
    """
    references = answer if answer is not None else solution
    if references is None:
        raise UserError("math_accuracy needs a column 'answer' or 'solution' with the reference of each prompt")
    grades = grade_math([text_of(one) for one in completions], [reference_answer(one) for one in references])
    if log_metric is not None:
        log_metric("math_accuracy/timed_out", sum(grade.timed_out for grade in grades) / len(grades))
    return [grade.score for grade in grades]


def boxed_format(completions: Completions, **_: Any) -> list[float]:
    r"""1 for a completion with a closed, non-empty `\boxed{}`, whatever its content; 0 for others."""
    return [float(closed_box(text_of(one)) is not None) for one in completions]


def text_of(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion; of a conversation, its last message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"] or "")
