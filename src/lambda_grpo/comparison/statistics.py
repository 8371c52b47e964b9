"""What n paired runs can say: differences with intervals, corrected for how many are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

LEVEL = 0.95
POWER = 0.8  # with which `detectable_difference` would have been found
NO_DIFFERENCE, NO_INTERVAL = "no detectable difference", "no interval"


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, over the seeds that both have.

    ci95: paired t interval; None where n < 2.
    bootstrap_ci95: percentile bootstrap of the mean, for comparison: too narrow at small n.
    p: of the paired t test, two-sided.
    """

    difference: float
    n: int
    ci95: tuple[float, float] | None = None
    bootstrap_ci95: tuple[float, float] | None = None
    p: float | None = None
    sd: float | None = None


def mean_ci95(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean of the values that there are, with its t interval over seeds; None without any."""
    known = np.array([value for value in values if value is not None], dtype=float)
    if len(known) == 0:
        return None
    mean, n = float(known.mean()), len(known)
    if n < 2:
        return {"mean": mean, "ci95": None, "n": n}
    half = float(student.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "ci95": [mean - half, mean + half], "n": n}


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """The mean difference over the seeds that both have a value for, at least one.

    Args:
        ours, theirs: value by seed.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    mean, n = float(differences.mean()), len(seeds)
    if n < 2:
        return Difference(mean, n)
    sd = float(differences.std(ddof=1))
    if sd == 0:  # the t statistic is 0/0, or infinite
        return Difference(mean, n, (mean, mean), (mean, mean), 1.0 if mean == 0 else 0.0, sd)
    test = ttest_1samp(differences, 0.0)
    interval: Any = test.confidence_interval(LEVEL)
    resampled: Any = bootstrap(
        (differences,), np.mean, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Difference(
        mean,
        n,
        (float(interval.low), float(interval.high)),
        (float(resampled.low), float(resampled.high)),
        float(test.pvalue),
        sd,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction over those that there are (Scandinavian J. of Statistics 6, 1979)."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else next(corrected) for p in p_values]


def detectable_difference(sd: float | None, n: int, comparisons: int) -> float | None:
    """The true difference that a paired t test of n seeds finds with a probability of POWER.

    At a level of 5 % divided by the number of comparisons: what Holm asks of the first of them.
    """
    if sd is None or n < 2:
        return None
    if sd == 0:
        return 0.0
    effect = TTestPower().solve_power(nobs=n, alpha=(1 - LEVEL) / comparisons, power=POWER, alternative="two-sided")
    return float(effect) * sd


def verdict(difference: float, p_holm: float | None, is_better_when_higher: bool) -> str:
    """In a word; "better" and "worse" only where the endpoint has a better side."""
    if p_holm is None:
        return NO_INTERVAL
    if p_holm >= 1 - LEVEL:
        return NO_DIFFERENCE
    up, down = ("better", "worse") if is_better_when_higher else ("higher", "lower")
    return up if difference > 0 else down
