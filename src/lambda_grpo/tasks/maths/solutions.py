"""Solutions of problems as a supervised warm-up writes them: worked or answered at once, each with the same ending.

A model that has seen both samples both, so that the lengths within a group differ.
"""

from __future__ import annotations

import re

from lambda_grpo.tasks.base import Example

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's annotations of the sums in its solutions: 48/2=<<48/2=24>>24
_FINAL_LINE = re.compile(r"\s*####[^\n]*\s*\Z")  # of GSM8K's solutions
_UNIT = re.compile(r"(?<=\d)\s*\([^()]*\)\Z")  # in ASDiv's answers: 9 (apples)


def write_solution(example: Example, style: str, ending: str) -> str:
    """A correct completion for a problem.

    Args:
        style: "worked" for its solution and then the ending, or the ending alone where it has no solution; "answer"
            for the ending alone.
        ending: how the answer is stated, with `{answer}` for it. A solution that has this ending already gets no other.
    """
    answer = _UNIT.sub("", example.answer or "")
    stated = ending.replace("{answer}", answer)
    if style == "answer" or not example.solution:
        return stated.lstrip()
    worked = _FINAL_LINE.sub("", _CALCULATOR.sub("", example.solution)).rstrip()
    return worked if worked.endswith(stated.strip()) else worked + stated
