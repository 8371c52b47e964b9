"""Metrics over several samples of each problem, with confidence intervals clustered by problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm
from scipy.stats import t as student

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over problems.

    Attributes:
        value: the mean, from 0 to 1.
        ci95: its 95 % confidence interval.
        se: its standard error, clustered by problem.
    """

    value: float
    ci95: tuple[float, float]
    se: float


def clustered_mean(values: Sequence[float], samples: int = 1) -> Estimate:
    """The mean over problems of a value from 0 to 1, with its 95 % interval.

    The standard error is clustered by problem (E. Miller, Adding Error Bars to Evals, arXiv 2411.00640): it is that of
    the means of the problems, since samples of one problem aren't independent. The interval is Wilson's for the
    effective sample size, i.e. the number of independent samples with that standard error (E. L. Korn and B. I.
    Graubard, with their adjustment for few clusters, Survey Methodology 24, 1998). It stays within 0 and 1, and has a
    positive width even if all samples are right. With one sample per problem it is Wilson's interval.

    Args:
        values: one per problem: the mean of its samples, or an estimate such as pass@k.
        samples: number of samples per problem.

    Raises:
        ValueError: there are no problems.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no problems")
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n if n > 1 else 0.0  # of the mean
    return Estimate(mean, _wilson(mean, _effective_sample_size(mean, variance, n, samples)), math.sqrt(variance))


def _effective_sample_size(mean: float, variance: float, n: int, samples: int) -> float:
    """The number of independent samples that give as precise a mean as n problems with `samples` samples each."""
    if n == 1 or samples == 1 or mean in (0, 1):  # the correlation within problems is unknown: assume it is perfect
        return n
    # between n (samples of a problem are perfectly correlated) and n * samples (all are independent)
    ratio = mean * (1 - mean) / variance if variance > 0 else math.inf
    return min(max(ratio, n), n * samples) * (_quantile(n * samples - 1) / _quantile(n - 1)) ** 2


def _quantile(degrees_of_freedom: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, degrees_of_freedom))


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval (E. B. Wilson, J. of the American Statistical Association 22, 1927)."""
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))  # for rounding errors at 0 and 1


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Unbiased estimate of pass@k from n samples with c right: 1 − C(n−c, k)/C(n, k) (arXiv 2107.03374, eq. 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_at_k(votes: Sequence[str | None], right: Sequence[bool]) -> float:
    """Whether the most frequent answer is right (arXiv 2203.11171); for tied answers, the share of right ones.

    Args:
        votes: equal for equivalent answers; None for samples without an answer.
        right: whether each answer is right.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    verdict = {vote: is_right for vote, is_right in zip(votes, right, strict=True) if vote is not None}
    return sum(verdict[vote] for vote in counts if counts[vote] == most) / list(counts.values()).count(most)


def powers_up_to(samples: int) -> list[int]:
    """The values of k for which pass@k is reported: 1, 2, 4, … and the number of samples itself."""
    return [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]
