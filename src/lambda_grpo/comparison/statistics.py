"""Statistics of paired runs: differences with intervals, tests corrected for their number, detectable differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from lambda_grpo.runs.limits import ANYTHING, Limits
from lambda_grpo.runs.study_record import MeanRecord

LEVEL = 0.95
POWER = 0.8  # of `detectable_difference`
NO_DIFFERENCE, NO_INTERVAL = "no detectable difference", "no interval"
NO_SPREAD = 1e-9  # a smaller standard deviation is rounding: differences of accuracies are multiples of 1/n


REPLICATES = 10_000  # of the bootstrap


@dataclass(frozen=True)
class RateValues:
    """An arm at each of its learning rates, with each of the compared seeds.

    choice: (rates, seeds), by whose mean over seeds the rate is chosen: the highest, the first of equal ones.
    endpoint: (rates, seeds), what is compared.
    """

    choice: Any
    endpoint: Any

    def at_best(self, weights: Any) -> Any:
        """The mean endpoint at the rate that is best under these weights of the seeds: (n, seeds) → (n,)."""
        best = np.argmax((weights @ self.choice.T).round(12), axis=1)  # rounding: equal ones stay equal
        return np.take_along_axis(weights @ self.endpoint.T, best[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Difference:
    """The mean difference between two arms over seeds, each at its best learning rate.

    ci95: 95 % interval; None if n < 2, or if all seeds differ by the same amount (also by 0).
    fixed_ci95: the paired t interval of the differences at the chosen rates, as if they had been known.
    p: two-sided p value.
    se: standard error; None if there is no interval.
    """

    difference: float
    n: int
    ci95: tuple[float, float] | None = None
    fixed_ci95: tuple[float, float] | None = None
    p: float | None = None
    se: float | None = None


def mean_ci95(values: Sequence[float | None], limits: Limits = ANYTHING) -> MeanRecord | None:
    """The mean of the finite values over seeds, with its t interval; None if there are none.

    There is no interval for one seed, nor for equal values: that three seeds have 100 % doesn't mean that all have.

    Args:
        limits: the range of the figure, to which the interval is cut.
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    if len(known) == 0:
        return None
    mean, n = float(known.mean()), len(known)
    if n < 2 or (sd := float(known.std(ddof=1))) < NO_SPREAD:
        return {"mean": mean, "ci95": None, "n": n}
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "ci95": list(_within(limits, mean - half, mean + half)), "n": n}


def paired_difference(arm: RateValues, against: RateValues, limits: Limits = ANYTHING) -> Difference:
    """The mean of arm minus against over seeds, each at the rate that is best on average.

    With one rate each, the interval and p are those of the paired t test. Otherwise the choice of the rates is a part
    of what varies: the standard error is that of a bootstrap over seeds, in pairs, which chooses the rates anew from
    each sample of seeds (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6). It is multiplied by
    √(n / (n − 1)), so that for fixed rates it is that of the t test, whose distribution serves for both.

    Args:
        arm, against: over the same seeds, at least one.
        limits: the range of a value. The interval is cut to the range of a difference.
    """
    n = arm.endpoint.shape[1]
    equal = np.full((1, n), 1 / n)
    mean = float((arm.at_best(equal) - against.at_best(equal))[0])
    if n < 2:
        return Difference(mean, n)
    best = [int(np.argmax(one.choice.mean(axis=1).round(12))) for one in (arm, against)]
    fixed = float((arm.endpoint[best[0]] - against.endpoint[best[1]]).std(ddof=1)) / math.sqrt(n)
    if len(arm.choice) == len(against.choice) == 1:
        se = fixed
    else:
        weights = np.random.default_rng(0).multinomial(n, equal[0], size=REPLICATES) / n
        se = float((arm.at_best(weights) - against.at_best(weights)).std()) * math.sqrt(n / (n - 1))
    if se < NO_SPREAD:  # the t statistic is 0/0 or infinite
        return Difference(0.0 if abs(mean) < NO_SPREAD else mean, n)
    return Difference(
        mean,
        n,
        _t_interval(mean, se, n, limits),
        _t_interval(mean, fixed, n, limits),
        float(2 * student.sf(abs(mean) / se, n - 1)),
        se,
    )


def _t_interval(mean: float, se: float, n: int, limits: Limits) -> tuple[float, float]:
    """The t interval of a difference between two values within the limits."""
    half, width = float(student.ppf((1 + LEVEL) / 2, n - 1)) * se, limits[1] - limits[0]
    return _within((-width, width), mean - half, mean + half)


def _within(limits: Limits, low: float, high: float) -> tuple[float, float]:
    """An interval cut to the limits. It covers the true value as often as the whole interval."""
    return max(low, limits[0]), min(high, limits[1])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p values that aren't None (Scandinavian J. of Statistics 6, 1979)."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else next(corrected) for p in p_values]


def detectable_difference(se: float | None, n: int, comparisons: int, limits: Limits = ANYTHING) -> float | None:
    """The true difference that a t test of n seeds with this standard error detects with a probability of POWER.

    The level is 5 % divided by the number of comparisons, Holm's level for the first of them. None if two values within
    `limits` can't differ by so much.
    """
    if not se or n < 2:  # without spread there is no estimate
        return None
    sd = se * math.sqrt(n)
    level = (1 - LEVEL) / comparisons
    found = sd * float(brentq(lambda effect: power(effect, n, level) - POWER, 0.0, 1e6))
    return found if found <= limits[1] - limits[0] else None


def power(effect: float, n: int, level: float) -> float:
    """Of a two-sided paired t test: how often it finds a mean of `effect` standard deviations.

    The mean over the sample's spread. (SciPy's noncentral t distribution, on which statsmodels' power rests, is NaN for
    few seeds and small levels.)
    """
    threshold = student.isf(level / 2, n - 1) * _spreads(n)
    shift = effect * math.sqrt(n)
    return float(np.mean(norm.sf(threshold - shift) + norm.cdf(-threshold - shift)))


@functools.cache
def _spreads(n: int) -> Any:
    """Standard deviations of n draws from a normal distribution of 1, at 2000 evenly spaced quantiles."""
    return np.sqrt(chi2.ppf((np.arange(2000) + 0.5) / 2000, n - 1) / (n - 1))


def verdict(difference: float, p_holm: float | None, better: str | None) -> str:
    """A comparison in one word: "better" or "worse", or without a better direction "higher" or "lower".

    Args:
        better: the direction that is better, "higher" or "lower", if any.
    """
    if p_holm is None:
        return NO_INTERVAL
    if p_holm >= 1 - LEVEL:
        return NO_DIFFERENCE
    direction = "higher" if difference > 0 else "lower"
    if better is None:
        return direction
    return "better" if direction == better else "worse"
