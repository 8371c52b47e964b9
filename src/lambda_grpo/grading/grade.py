"""`grade_math` and `same_answers`: batches of answers, graded in worker processes with time and memory limits."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock

from lambda_grpo.errors import LambdaGRPOError, UserError
from lambda_grpo.grading.pool import Outcome, Pool

COMPLETION_SECONDS = 2.0  # CPU time limit of one completion
FIRST_ROUND_SECONDS = 0.25  # CPU time limit in the first round, so that quick completions don't wait for slow ones
BATCH_SECONDS, BATCH_SECONDS_PER_COMPLETION = 10.0, 0.1  # wall-clock limit of a batch: base, and more per completion
VOTE_SECONDS = 60.0  # wall-clock limit for comparing wrong answers for a majority vote

_pool_lock = Lock()
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    Attributes:
        score: from 0 to 1; 1.0 is correct.
        extracted: the answer as written in the completion; None if none was found, or if the task doesn't extract
            answers.
        timed_out: whether grading exceeded a time or memory limit; the completion then counts as wrong.
        vote: a normalized form of the answer, cheap to compute: equal for most equivalent answers. The majority is
            counted by it for tasks without `same_answers`.
    """

    score: float
    extracted: str | None = None
    timed_out: bool = False
    vote: str | None = None

    @property
    def correct(self) -> bool:
        return self.score == 1.0


class GradingError(LambdaGRPOError, RuntimeError):
    """The grader itself failed, as opposed to an answer that is wrong. `index`: of the completion in the batch."""

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index


def grade_math(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    seconds: float = COMPLETION_SECONDS,
    batch_seconds: float | None = None,
    allow_empty: bool = False,
) -> list[Grade]:
    r"""Grade completions by their final answers.

    The answer is the last group of `\boxed{}` or the last `####`; without one, the last statement such as "the answer
    is 5"; without one, the last formula or number. It is correct if it equals the reference as text or mathematically
    (the rules are in `lambda_grpo.grading.equivalence`). Thread-safe.

    Args:
        completions: B texts.
        answers: B reference answers: a formula or a word, or a worked solution that ends with `####` or a `\boxed{}`.
        seconds: CPU time limit of a completion. One that exceeds it counts as wrong, and is counted and logged.
        batch_seconds: wall-clock limit of the whole batch; by default 10 s plus 0.1 s per completion.
        allow_empty: accept empty references, for problems whose answer is unknown: no completion is correct then.

    Raises:
        UserError: math-verify isn't installed, or a reference is empty.
        GradingError: the grader itself failed; the message names the completion.
    """
    if len(completions) != len(answers):
        raise ValueError(f"need an answer for each completion, got {len(completions)} and {len(answers)}")
    for i, answer in enumerate(answers):
        if not isinstance(answer, str) or not (answer.strip() or allow_empty):
            raise UserError(f"answer {i} is {answer!r}: a reference answer must be non-empty text")
    for i, completion in enumerate(completions):
        if not isinstance(completion, str):
            raise TypeError(f"completion {i} must be text, got {completion!r}")
    calls = list(zip(completions, answers, strict=True))
    limit = BATCH_SECONDS + BATCH_SECONDS_PER_COMPLETION * len(calls) if batch_seconds is None else batch_seconds
    outcomes = _pool().run(calls, min(FIRST_ROUND_SECONDS, seconds), seconds, batch_seconds=limit)
    grades = [_grade(i, calls[i], outcome) for i, outcome in enumerate(outcomes)]
    if timed_out := sum(grade.timed_out for grade in grades):
        logger.warning(
            f"{timed_out} of {len(grades)} completions couldn't be graded within {seconds:g} s each and {limit:g} s "
            "in total: they count as wrong"
        )
    failures = [outcome.result.failure for outcome in outcomes if outcome.result and outcome.result.failure]
    if failures:
        logger.warning(
            f"{len(failures)} of {len(grades)} completions have answers that can't be parsed: they count as wrong. The "
            f"first error: {failures[0]}"
        )
    return grades


def same_answers(pairs: Sequence[tuple[str, str]], *, batch_seconds: float = VOTE_SECONDS) -> list[bool]:
    """Whether the two answers of each pair are equivalent; the second one is taken as the reference.

    Args:
        pairs: answers as written in completions, the most important pairs first.
        batch_seconds: wall-clock limit of all comparisons. Pairs that aren't compared within it, or that need more than
            FIRST_ROUND_SECONDS of CPU time, count as different, with a warning in the log.
    """
    calls = [(rf"\boxed{{{answer}}}", reference) for answer, reference in pairs]
    outcomes = _pool().run(calls, FIRST_ROUND_SECONDS, batch_seconds=batch_seconds)
    if unknown := sum(outcome.limit_exceeded for outcome in outcomes):
        logger.warning(
            f"{unknown} of {len(pairs)} pairs of wrong answers took too long to compare: they count as different"
        )
    return [outcome.result is not None and outcome.result.correct for outcome in outcomes]


def check_installed() -> None:
    """Raise UserError if math-verify isn't installed: called before anything is sampled or written."""
    if find_spec("math_verify") is None:
        raise UserError("grading maths needs math-verify: pip install 'lambda-grpo[eval]'")


def _grade(index: int, call: tuple[str, str], outcome: Outcome) -> Grade:
    if outcome.error is not None:
        completion, answer = call
        raise GradingError(
            f"the grader failed on completion {index} (answer {answer!r}), which ends with {completion[-200:]!r}:\n"
            f"{outcome.error}",
            index,
        )
    if outcome.limit_exceeded:
        return Grade(0.0, timed_out=True)
    verdict = outcome.result
    vote = "the right answer" if verdict.correct else verdict.normal_form
    return Grade(float(verdict.correct), verdict.extracted, vote=vote)


def _pool() -> Pool:
    with _pool_lock:
        return _started_pool()


@functools.cache
def _started_pool() -> Pool:
    check_installed()
    pool = Pool("lambda_grpo.grading.judge", "judge")
    # A math-verify that can't parse anything would silently make all answers wrong.
    (outcome,) = pool.run([(r"\boxed{\frac{2}{4}}", "0.5")], 60)
    if outcome.result is None or not outcome.result.correct:
        raise RuntimeError(f"math-verify doesn't work here: it doesn't find 2/4 equal to 0.5. {outcome.error or ''}")
    return pool
