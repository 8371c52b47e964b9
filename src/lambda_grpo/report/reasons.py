"""Why a sample of an evaluation counts as right or wrong, in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

LONGEST = 80  # characters of an answer in a sentence

# with limits, since a completion may hold any number of digits
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40}|/\d{1,40})?")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def verdict_reason(sample: Mapping[str, Any], *, extracts: bool) -> str:
    """Why a sample counts as right or wrong, in a sentence, from its record alone: nothing is graded again.

    A right answer is "the reference" or "the same number" only where the record shows it. Otherwise the sentence says
    that the grader found it equivalent, by the rules in docs/evaluation.md.

    Args:
        sample: a line of TASK.samples.jsonl.
        extracts: whether the task finds answers in completions: if not, `unanswered` in TASK.json is null.
    """
    answer, reference = sample["extracted"], sample["answer"]
    cut = "" if sample["ended"] else " The completion was cut off at the token limit."
    if sample["timed_out"]:
        return "Grading it took more time or memory than allowed, so it counts as wrong." + cut
    if not extracts:
        return f"The task's grader gave {sample['score']:g}; it doesn't say which answer it read." + cut
    if answer is None:
        return "No answer was found that could be compared with the reference." + cut
    if not reference:
        return f"The answer read is {_short(answer)}, but there is no reference answer." + cut
    if not sample["correct"]:
        graded = f"; the score is {sample['score']:g}" if sample["score"] else ""
        return f"The answer read is {_short(answer)}, the reference {_short(reference)}{graded}." + cut
    if _plain(answer) == _plain(reference):
        return f"The answer {_short(answer)} is the reference." + cut
    if (number := _number(answer)) is not None and number == _number(reference):
        return f"The answer {_short(answer)} is the same number as the reference {_short(reference)}." + cut
    return f"The grader found the answer {_short(answer)} equivalent to the reference {_short(reference)}." + cut


def _short(answer: str) -> str:
    """An answer on one line, cut where it is long."""
    text = " ".join(answer.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _plain(answer: str) -> str:
    """An answer without spaces and dollar signs."""
    return "".join(answer.split()).strip("$")


def _number(answer: str) -> Fraction | None:
    """The value of a plain number or fraction of numbers; None for anything else."""
    text = _FRACTION.sub(r"\1/\2", _THOUSANDS.sub("", _plain(answer)))
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return None
