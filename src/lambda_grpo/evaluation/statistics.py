"""What several samples of each problem say, with intervals that know that samples of one problem are alike."""

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
        value: of it, from 0 to 1.
        ci95: its 95 % interval.
        se: its standard error, clustered by problem.
    """

    value: float
    ci95: tuple[float, float]
    se: float


def clustered_mean(values: Sequence[float], samples: int = 1) -> Estimate:
    """The mean of a value of each problem, from 0 to 1, and its 95 % interval.

    The standard error is clustered by problem (E. Miller, Adding Error Bars to Evals, arXiv 2411.00640): of the
    problems' own means, since the samples of one problem aren't independent. The interval is Wilson's for as many
    independent samples as would have that standard error (E. L. Korn and B. I. Graubard's effective sample size, with
    its adjustment for few clusters, Survey Methodology 24, 1998), which stays within 0 and 1 and isn't empty where all
    are right; with one sample it is Wilson's own.

    Args:
        values: the mean of each problem's samples, or an estimate of its own like pass@k.
        samples: of each problem.

    Raises:
        ValueError: there are no problems.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no problems")
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n if n > 1 else 0.0  # of the mean
    return Estimate(mean, _wilson(mean, _effective(mean, variance, n, samples)), math.sqrt(variance))


def _effective(mean: float, variance: float, n: int, samples: int) -> float:
    """How many independent samples n problems with so many samples each are worth."""
    if n == 1 or samples == 1 or mean in (0, 1):  # nothing shows how alike the samples of a problem are: as if equal
        return n
    # as if each problem were one sample at least, and all samples independent at most
    ratio = mean * (1 - mean) / variance if variance > 0 else math.inf
    return min(max(ratio, n), n * samples) * (_quantile(n * samples - 1) / _quantile(n - 1)) ** 2


def _quantile(degrees: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, degrees))


def _wilson(share: float, n: float) -> tuple[float, float]:
    """E. B. Wilson, J. of the American Statistical Association 22, 1927."""
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))  # rounding, at none or all right


def pass_at_k(right: int, samples: int, k: int) -> float:
    """How likely one of k samples is right: unbiased from n >= k, 1 − C(n−c, k)/C(n, k) (arXiv 2107.03374, eq. 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_at_k(votes: Sequence[str | None], right: Sequence[bool]) -> float:
    """Whether the most frequent answer is right (arXiv 2203.11171). Of several that are, the share of right ones.

    Args:
        votes: the same text for answers that are the same; None has no vote.
        right: of each answer.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    verdict = {vote: is_right for vote, is_right in zip(votes, right, strict=True) if vote is not None}
    return sum(verdict[vote] for vote in counts if counts[vote] == most) / list(counts.values()).count(most)


def powers_up_to(samples: int) -> list[int]:
    """1, 2, 4, … and the number of samples itself: the k of pass@k that are reported."""
    return [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]
