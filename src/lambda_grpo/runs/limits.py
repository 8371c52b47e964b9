"""The possible values of a study's figures, to which their intervals are cut.

A t interval of few seeds easily leaves them: two accuracies of 95 % and 99 % have one from 72 % to 122 %. The true
value can't be where the interval is cut, so the cut one covers it exactly as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lambda_grpo.runs.study_record import RunResult

Limits = tuple[float, float]
ANYTHING: Limits = (-math.inf, math.inf)
SHARE: Limits = (0.0, 1.0)
AMOUNT: Limits = (0.0, math.inf)
# Of each figure; a run's own `limits` are narrower, and that of `reward`
LIMITS = {
    **dict.fromkeys(("accuracy", "accuracy_area", "score_mean", "share_right"), SHARE),
    **dict.fromkeys(("clip_fraction", "grad_clip_fraction"), SHARE),
    **dict.fromkeys(("completion_length_mean", "entropy", "tokens_to_target", "num_tokens"), AMOUNT),
}


def limits_of(figure: str, runs: Sequence[RunResult]) -> Limits:
    """The smallest and the largest possible value of a figure in these runs, or of a curve's `reward`."""
    of_runs = [_limits_of_run(figure, run) for run in runs]
    return min((low for low, _ in of_runs), default=-math.inf), max((high for _, high in of_runs), default=math.inf)


def _limits_of_run(figure: str, run: RunResult) -> Limits:
    if figure in run["limits"]:
        low, high = run["limits"][figure]
        return low, high
    return LIMITS.get(figure, ANYTHING)


def reward_limits(rewards: Iterable[float | None]) -> Limits:
    """The possible rewards: a task's grades lie in [0, 1]; penalties and other rewards as far as they occurred."""
    seen = [reward for reward in rewards if reward is not None]
    return min([0.0, *seen]), max([1.0, *seen])
