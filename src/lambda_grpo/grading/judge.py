"""The verdict on one completion: the function that the worker processes run."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import current_process

from lambda_grpo.grading.equivalence import normal_form, same_answer, same_text
from lambda_grpo.grading.extraction import candidate_answers, reference_answer
from lambda_grpo.grading.parsing import MAX_LENGTH

MAX_TEXT = 5000  # characters of an answer; longer ones aren't even compared as text


@dataclass(frozen=True)
class Verdict:
    """The verdict on a completion.

    Attributes:
        extracted: the answer as written in the completion.
        normal_form: see `equivalence.normal_form`; None for a correct answer.
        failure: the error that kept the answer from being parsed or compared; it then counts as wrong.
    """

    correct: bool
    extracted: str | None = None
    normal_form: str | None = None
    failure: str | None = None


def judge(completion: str, reference: str) -> Verdict:
    """Whether the completion's answer equals the reference.

    An exception on a completion makes it wrong, since a model may write anything. A broken grader also fails when the
    reference is compared with itself; that exception is raised.
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
    candidates = candidate_answers(completion)
    reference = reference_answer(reference)
    for same in (same_text, same_answer):  # the cheap comparison first: a formula may take seconds
        for candidate in candidates:
            counts = len(candidate.answer) <= MAX_TEXT and (same is same_text or not candidate.text_only)
            if counts and same(candidate.answer, reference):
                return Verdict(True, candidate.answer)
    answer = next((candidate.answer for candidate in candidates if not candidate.text_only), None)
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
# The parser and SymPy build tables on first use. Here this happens once, in the fork server that imports this module,
# for all processes forked from it. A process that imports the module directly grades something right away anyway.
if current_process().name == "MainProcess":
    for _answer, _reference in _TYPICAL:
        _judge(rf"\boxed{{{_answer}}}", _reference)
