"""Statistics of two evaluations of the same problems: what the one solves and the other doesn't."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar

LEVEL = 0.95
Z = float(norm.ppf((1 + LEVEL) / 2))
NO_SPREAD = 1e-9  # a smaller standard deviation is rounding
SCORE, STUDENT = "Tango's score interval", "paired t interval"


@dataclass(frozen=True)
class PairedStatistics:
    """Two evaluations compared, the second minus the first.

    Attributes:
        n: number of problems, which are the unit of all statistics.
        difference: of the accuracies.
        ci95: its 95 % interval over problems, by `interval`; None, for the reason `no_interval`.
        mcnemar_p: p value of McNemar's exact test; None, for the reason `no_mcnemar`.
        both_right: problems of which all samples of both are right. both_wrong: problems of which none is.
        only_first: problems that only the first solves; with several samples, of which more of its samples are right.
        only_second: likewise. as_often: problems of which the same share is right, neither all nor none.
    """

    n: int
    difference: float
    ci95: tuple[float, float] | None
    interval: str | None
    no_interval: str | None
    mcnemar_p: float | None
    no_mcnemar: str | None
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    as_often: int

    @property
    def is_clear(self) -> bool:
        """Whether the accuracies differ beyond chance: by McNemar's test, or where there is none by the interval."""
        if self.mcnemar_p is not None:
            return self.mcnemar_p < 1 - LEVEL
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


def compare_shares(first: Sequence[float], second: Sequence[float], *, one_sample: bool) -> PairedStatistics:
    """Compare the shares of right samples of n problems, which both evaluations give in the same order.

    With one sample per problem the interval is Tango's score interval for a difference of paired proportions, which has
    a positive width even if no verdict differs, and the test is McNemar's exact one. With several samples the interval
    is the t interval of the differences of the problems, that is clustered by problem (E. Miller, arXiv 2411.00640).

    Args:
        one_sample: whether each share is of one sample, and so 0 or 1.

    Raises:
        ValueError: there are no problems, or not equally many.
    """
    n = len(first)
    if n == 0 or len(second) != n:
        raise ValueError(f"need equally many problems, at least one, got {n} and {len(second)}")
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    both_right, both_wrong = pairs.count((1.0, 1.0)), pairs.count((0.0, 0.0))
    differences = [b - a for a, b in pairs]
    if one_sample:
        table = [[both_right, only_first], [only_second, both_wrong]]
        ci95: tuple[float, float] | None = score_interval(only_second, only_first, n)
        p, no_mcnemar, interval = float(mcnemar(table, exact=True).pvalue), None, SCORE
    else:
        ci95, interval = t_interval(differences), STUDENT
        p, no_mcnemar = None, "it takes one sample per problem"
    reason = "there is one problem" if n == 1 else "all problems differ by the same amount, or by none"
    return PairedStatistics(
        n=n,
        difference=math.fsum(differences) / n,
        ci95=ci95,
        interval=None if ci95 is None else interval,
        no_interval=reason if ci95 is None else None,
        mcnemar_p=p,
        no_mcnemar=no_mcnemar,
        both_right=both_right,
        only_first=only_first,
        only_second=only_second,
        both_wrong=both_wrong,
        as_often=n - both_right - only_first - only_second - both_wrong,
    )


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t interval of a mean of differences of shares; None where they have no spread."""
    if len(differences) < 2 or float(np.std(differences)) < NO_SPREAD:
        return None
    found: Any = ttest_1samp(differences, 0.0).confidence_interval(LEVEL)
    return max(float(found.low), -1.0), min(float(found.high), 1.0)


def score_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a difference of paired proportions (T. Tango, Statistics in Medicine 17, 1998).

    A difference d lies in it if (gained − lost − n·d)² is at most 1.96² times its variance, n·(2q + d − d²). There q is
    the probability of a loss with the highest likelihood, given that the probability of a gain is q + d.
    """
    estimate = (gained - lost) / n

    def excess(d: float) -> float:
        """The squared distance from n·d over what the interval allows; negative within the interval."""
        linear = (2 * n - gained + lost) * d - gained - lost
        root = math.sqrt(max(linear**2 + 8 * n * lost * d * (1 - d), 0.0))
        loss = (root - linear) / (4 * n)
        return (gained - lost - n * d) ** 2 - Z**2 * n * (2 * loss + d - d * d)

    def limit(end: int) -> float:
        # where no verdict differs, or all of them, the estimate itself is a root: begin just beside it
        return float(end) if estimate == end else float(brentq(excess, estimate + end * 1e-9, end))

    return limit(-1), limit(1)
