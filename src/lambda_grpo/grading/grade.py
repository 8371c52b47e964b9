"""Grading answers to maths problems: math-verify, in processes that nothing a model writes can hang."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock

from lambda_grpo.errors import LambdaGRPOError, UserError
from lambda_grpo.grading.pool import Outcome, Pool

SECONDS = 2.0  # of computing that one completion may take
QUICK_SECONDS = 0.25  # the same in a first round, so that no completion waits for others that take long
BATCH_SECONDS, MORE_SECONDS = 10.0, 0.1  # that a batch may take: so many, and more for each completion
VOTE_SECONDS = 60.0  # that comparing wrong answers for a majority may take

_starting = Lock()
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    Attributes:
        score: from 0 to 1; 1.0 is right.
        extracted: the answer as the completion has it; None if none was found, or the task doesn't look for one.
        timed_out: whether a limit of time or memory ended the grading; then the completion counts as wrong.
        vote: the same text for answers that are the same, as far as that is cheap to see. A majority is counted by it
            where the task has no `same_answers`.
    """

    score: float
    extracted: str | None = None
    timed_out: bool = False
    vote: str | None = None

    @property
    def correct(self) -> bool:
        return self.score == 1.0


class GradingError(LambdaGRPOError, RuntimeError):
    """A grader that is broken, not an answer that is wrong. `number`: of the completion."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


def grade_math(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    seconds: float = SECONDS,
    batch_seconds: float | None = None,
) -> list[Grade]:
    r"""Grade completions by their final answers.

    The answer is the last `\boxed{}`, with those that belong to it, or `####`; or else what the last sentence of the
    kind "the answer is" says; or else the last formula or number. It is right if it equals the reference: as text, or
    mathematically (`lambda_grpo.grading.equivalence` has the rules). Can be called from any thread.

    Args:
        completions: B texts.
        answers: B references: a formula or a word, or a text with `####` or `\boxed{}` before it.
        seconds: of computing that a completion may take. One that takes longer is wrong, counted and logged.
        batch_seconds: that all may take on the clock; 10 s and 0.1 s for each completion by default.

    Raises:
        UserError: math-verify isn't installed, or a reference is empty.
        GradingError: the grader itself failed; the message names the completion.
    """
    if len(completions) != len(answers):
        raise ValueError(f"need an answer for each completion, got {len(completions)} and {len(answers)}")
    for i, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(f"answer {i} is {answer!r}: a reference must be text that isn't empty")
    return grade_known(completions, answers, seconds=seconds, batch_seconds=batch_seconds)


def grade_known(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    seconds: float = SECONDS,
    batch_seconds: float | None = None,
) -> list[Grade]:
    """As `grade_math`, but for problems whose answer may not be known: an empty reference, which no completion has."""
    for i, completion in enumerate(completions):
        if not isinstance(completion, str):
            raise TypeError(f"completion {i} must be text, got {completion!r}")
    calls = list(zip(completions, answers, strict=True))
    limit = BATCH_SECONDS + MORE_SECONDS * len(calls) if batch_seconds is None else batch_seconds
    outcomes = _pool().run(calls, min(QUICK_SECONDS, seconds), seconds, batch_seconds=limit)
    grades = [_grade(i, calls[i], outcome) for i, outcome in enumerate(outcomes)]
    if timed_out := sum(grade.timed_out for grade in grades):
        logger.warning(
            f"{timed_out} of {len(grades)} completions couldn't be graded within {seconds:g} s each and {limit:g} s "
            "together: they count as wrong"
        )
    failures = [outcome.result.failure for outcome in outcomes if outcome.result and outcome.result.failure]
    if failures:
        logger.warning(
            f"{len(failures)} of {len(grades)} completions have answers that can't be read: they count as wrong. The "
            f"first: {failures[0]}"
        )
    return grades


def same_answers(pairs: Sequence[tuple[str, str]], *, batch_seconds: float = VOTE_SECONDS) -> list[bool]:
    """Whether the first answer of each pair is right where the second one is the reference.

    Args:
        pairs: answers as completions have them, the most important pairs first.
        batch_seconds: that all may take on the clock. Pairs that can't be compared within it, or not within
            QUICK_SECONDS of computing each, count as different, which is logged.
    """
    calls = [(rf"\boxed{{{ours}}}", theirs) for ours, theirs in pairs]
    outcomes = _pool().run(calls, QUICK_SECONDS, batch_seconds=batch_seconds)
    if ended := sum(outcome.ended for outcome in outcomes):
        logger.warning(
            f"{ended} of {len(pairs)} pairs of wrong answers took too long to compare: they count as different"
        )
    return [outcome.result is not None and outcome.result.correct for outcome in outcomes]


def check_installed() -> None:
    """Raise UserError where math-verify isn't: known before anything is drawn, or written."""
    if find_spec("math_verify") is None:
        raise UserError("grading maths needs math-verify: pip install 'lambda-grpo[eval]'")


def _grade(number: int, call: tuple[str, str], outcome: Outcome) -> Grade:
    if outcome.error is not None:
        completion, answer = call
        raise GradingError(
            f"the grader failed on completion {number} (answer {answer!r}), which ends with {completion[-200:]!r}:\n"
            f"{outcome.error}",
            number,
        )
    if outcome.ended:
        return Grade(0.0, timed_out=True)
    verdict = outcome.result
    vote = "the right answer" if verdict.correct else verdict.normal
    return Grade(float(verdict.correct), verdict.extracted, vote=vote)


def _pool() -> Pool:
    with _starting:
        return _started_pool()


@functools.cache
def _started_pool() -> Pool:
    check_installed()
    pool = Pool("lambda_grpo.grading.judge", "judge")
    # A math-verify that can't read anything would make all answers wrong, without a word.
    (outcome,) = pool.run([(r"\boxed{\frac{2}{4}}", "0.5")], 60)
    if outcome.result is None or not outcome.result.correct:
        raise RuntimeError(f"math-verify doesn't work here: it doesn't see that 2/4 is 0.5. {outcome.error or ''}")
    return pool
