"""What n paired runs can say: differences with intervals, corrected for how many are looked at."""

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

LEVEL = 0.95
POWER = 0.8  # with which `detectable_difference` would have been found
NO_DIFFERENCE, NO_INTERVAL = "no detectable difference", "no interval"
Limits = tuple[float, float]
ANYTHING: Limits = (-math.inf, math.inf)
NO_SPREAD = 1e-9  # differences of accuracies are multiples of 1/n: less than this is rounding


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, over the seeds that both have.

    ci95: paired t interval; None where n < 2, or where all seeds differ by the same amount, 0 among them.
    bootstrap_ci95: percentile bootstrap of the mean, for comparison: too narrow at small n.
    p: of the paired t test, two-sided.
    sd: of the differences; None where there is no interval.
    """

    difference: float
    n: int
    ci95: tuple[float, float] | None = None
    bootstrap_ci95: tuple[float, float] | None = None
    p: float | None = None
    sd: float | None = None


def mean_ci95(values: Sequence[float | None], limits: Limits = ANYTHING) -> dict[str, Any] | None:
    """Mean of the values that are finite numbers, with its t interval over seeds; None without any.

    Args:
        limits: what the figure can be. An interval ends there.
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    if len(known) == 0:
        return None
    mean, n = float(known.mean()), len(known)
    if n < 2:
        return {"mean": mean, "ci95": None, "n": n}
    half = float(student.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "ci95": list(_within(limits, mean - half, mean + half)), "n": n}


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float], limits: Limits = ANYTHING) -> Difference:
    """The mean difference over the seeds that both have a value for, at least one.

    Args:
        ours, theirs: value by seed.
        limits: what a value can be. An interval ends where the difference of two values does.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    mean, n = float(differences.mean()), len(seeds)
    if n < 2:
        return Difference(mean, n)
    sd = float(differences.std(ddof=1))
    if sd < NO_SPREAD:  # the t statistic is 0/0, or infinite: chance can't be told from what is always so
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
    """The part of an interval that is possible. It covers the true value as often as the whole."""
    return max(low, limits[0]), min(high, limits[1])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction over those that there are (Scandinavian J. of Statistics 6, 1979)."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else next(corrected) for p in p_values]


def detectable_difference(sd: float | None, n: int, comparisons: int, limits: Limits = ANYTHING) -> float | None:
    """The true difference that a paired t test of n seeds finds with a probability of POWER.

    At a level of 5 % divided by the number of comparisons: what Holm asks of the first of them. None where two values
    within `limits` can't differ so much.
    """
    if not sd or n < 2:  # without spread there is nothing to go by
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


def verdict(difference: float, p_holm: float | None, is_better_when_higher: bool) -> str:
    """In a word; "better" and "worse" only where the endpoint has a better side."""
    if p_holm is None:
        return NO_INTERVAL
    if p_holm >= 1 - LEVEL:
        return NO_DIFFERENCE
    up, down = ("better", "worse") if is_better_when_higher else ("higher", "lower")
    return up if difference > 0 else down
