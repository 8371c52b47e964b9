"""The verdict on one completion. This is what a grading process runs."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import current_process

from lambda_grpo.grading.equivalence import normal_form, same_answer, same_text
from lambda_grpo.grading.extraction import readings, reference_answer
from lambda_grpo.grading.parsing import MAX_LENGTH

MAX_TEXT = 5000  # characters of an answer that is compared as text alone


@dataclass(frozen=True)
class Verdict:
    """The verdict on a completion.

    Attributes:
        extracted: the answer as the completion has it.
        normal: see `normal_form`; None for a right answer.
        failure: what kept it from being read, in words; then it counts as wrong.
    """

    correct: bool
    extracted: str | None = None
    normal: str | None = None
    failure: str | None = None


def judge(completion: str, reference: str) -> Verdict:
    """Whether the completion's answer is the reference's.

    What a model writes may make any part of this fail, and is then no answer. A grader that is broken fails on the
    reference itself as well, and that is raised.
    """
    try:
        return _judge(completion, reference)
    except MemoryError:
        raise
    except Exception as error:
        if reference and not same_answer(reference_answer(reference), reference_answer(reference)):
            raise
        return Verdict(False, failure=f"{type(error).__name__}: {error}")


def _judge(completion: str, reference: str) -> Verdict:
    found = readings(completion)
    reference = reference_answer(reference)
    for same in (same_text, same_answer):  # what is cheap to see first: a formula may take seconds to compare
        for reading in found:
            counts = len(reading.answer) <= MAX_TEXT and (same is same_text or not reading.as_text)
            if counts and same(reading.answer, reference):
                return Verdict(True, reading.answer)
    answer = next((reading.answer for reading in found if not reading.as_text), None)
    if answer is None or len(answer) > MAX_LENGTH:
        return Verdict(False)
    return Verdict(False, answer, normal_form(answer))


_TYPICAL = (
    (r"x^2 + 3x + \frac{1}{3}", r"-\frac{3\sqrt{2}}{4} + x^{2}"),
    (r"2\pi", "6.5"),
    (r"(1, -2)", "(2, 3)"),
    (r"(1, 2] \cup \{\pi\}", "[1, 2)"),
    ("y = 2x", "y = 3x"),
)
# The parser and SymPy build tables when they first read something: here, in the fork server that imports this, once for
# all processes that are forked from it. A process that imports it for itself reads something at once anyway.
if current_process().name == "MainProcess":
    for _answer, _reference in _TYPICAL:
        _judge(rf"\boxed{{{_answer}}}", _reference)
