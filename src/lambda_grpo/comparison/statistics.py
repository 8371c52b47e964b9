"""Statistics of paired runs: differences with intervals, tests corrected for their number, detectable differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import bootstrap, chi2, norm, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from lambda_grpo.runs.study_record import MeanRecord

LEVEL = 0.95
POWER = 0.8  # of `detectable_difference`
NO_DIFFERENCE, NO_INTERVAL = "no detectable difference", "no interval"
Limits = tuple[float, float]
ANYTHING: Limits = (-math.inf, math.inf)
NO_SPREAD = 1e-9  # a smaller standard deviation is rounding: differences of accuracies are multiples of 1/n


@dataclass(frozen=True)
class Difference:
    """The mean difference between two arms over the seeds that both have.

    ci95: paired t interval; None if n < 2, or if all seeds differ by the same amount (also by 0).
    bootstrap_ci95: percentile bootstrap of the mean, for comparison: too narrow for small n.
    p: two-sided p value of the paired t test.
    sd: standard deviation of the differences; None if there is no interval.
    """

    difference: float
    n: int
    ci95: tuple[float, float] | None = None
    bootstrap_ci95: tuple[float, float] | None = None
    p: float | None = None
    sd: float | None = None


def mean_ci95(values: Sequence[float | None], limits: Limits = ANYTHING) -> MeanRecord | None:
    """The mean of the finite values over seeds, with its t interval; None if there are none.

    Args:
        limits: the range of the figure, to which the interval is cut.
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    if len(known) == 0:
        return None
    mean, n = float(known.mean()), len(known)
    if n < 2:
        return {"mean": mean, "ci95": None, "n": n}
    half = float(student.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "ci95": list(_within(limits, mean - half, mean + half)), "n": n}


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], limits: Limits = ANYTHING
) -> Difference:
    """The mean of value minus reference over the seeds that both have, at least one.

    Args:
        values, reference: by seed.
        limits: the range of a value. The interval is cut to the range of a difference.
    """
    seeds = sorted(values.keys() & reference.keys())
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    mean, n = float(differences.mean()), len(seeds)
    if n < 2:
        return Difference(mean, n)
    sd = float(differences.std(ddof=1))
    if sd < NO_SPREAD:  # the t statistic is 0/0 or infinite
        return Difference(0.0 if abs(mean) < NO_SPREAD else mean, n)
    test = ttest_1samp(differences, 0.0)
    interval: Any = test.confidence_interval(LEVEL)
    resampled: Any = bootstrap(
        (differences,), np.mean, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = limits[1] - limits[0]
    return Difference(
        mean,
        n,
        _within((-width, width), float(interval.low), float(interval.high)),
        (float(resampled.low), float(resampled.high)),
        float(test.pvalue),
        sd,
    )


def _within(limits: Limits, low: float, high: float) -> tuple[float, float]:
    """An interval cut to the limits. It covers the true value as often as the whole interval."""
    return max(low, limits[0]), min(high, limits[1])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p values that aren't None (Scandinavian J. of Statistics 6, 1979)."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else next(corrected) for p in p_values]


def detectable_difference(sd: float | None, n: int, comparisons: int, limits: Limits = ANYTHING) -> float | None:
    """The true difference that a paired t test of n seeds detects with a probability of POWER.

    The level is 5 % divided by the number of comparisons, Holm's level for the first of them. None if two values within
    `limits` can't differ by so much.
    """
    if not sd or n < 2:  # without spread there is no estimate
        return None
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


def verdict(difference: float, p_holm: float | None, higher_is_better: bool) -> str:
    """A comparison in one word: "better" or "worse", or without a better direction "higher" or "lower"."""
    if p_holm is None:
        return NO_INTERVAL
    if p_holm >= 1 - LEVEL:
        return NO_DIFFERENCE
    up, down = ("better", "worse") if higher_is_better else ("higher", "lower")
    return up if difference > 0 else down
