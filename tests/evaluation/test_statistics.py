"""pass@k and maj@k against enumeration, and intervals that cover."""

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lambda_grpo.evaluation.statistics import clustered_mean, majority_at_k, pass_at_k, powers_up_to

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=9)


@given(OUTCOMES, st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(right, data):
    k = data.draw(st.integers(1, len(right)))
    choices = list(itertools.combinations(right, k))
    expected = sum(any(choice) for choice in choices) / len(choices)
    assert math.isclose(pass_at_k(sum(right), len(right), k), expected)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@3 needs at least 3 samples, got 2"):
        pass_at_k(1, 2, 3)


def test_pass_at_k_is_unbiased():
    rng, p, k = random.Random(0), 0.3, 4
    found = [pass_at_k(sum(rng.random() < p for _ in range(8)), 8, k) for _ in range(4000)]
    assert abs(sum(found) / 4000 - (1 - (1 - p) ** k)) < 0.02


VOTES = st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.booleans()), min_size=1, max_size=9)


@given(VOTES)
def test_the_majority_is_the_mean_over_all_orders_of_breaking_ties(votes):
    right_answer = "2"
    answers = [vote for vote, _ in votes]
    right = [vote == right_answer for vote in answers]
    count = Counter(vote for vote in answers if vote is not None)
    best = [vote for vote in count if count[vote] == max(count.values())] if count else []
    expected = sum(vote == right_answer for vote in best) / len(best) if best else 0.0
    assert majority_at_k(answers, right) == expected


def test_majorities_by_hand():
    assert majority_at_k(["5", "6", "6", None], [False, True, True, False]) == 1.0
    assert majority_at_k(["5", "6"], [False, True]) == 0.5
    assert majority_at_k([None, None], [False, False]) == 0.0


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_with_one_sample_per_problem_the_interval_is_wilsons(right):
    found = clustered_mean([float(one) for one in right])
    expected = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    assert found.ci95 == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == pytest.approx(sum(right) / len(right))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=40))
def test_the_standard_error_is_clustered_by_problem(samples):
    """Against the double sum of the paper, with its n/(n−1): residuals of one problem multiplied with each other."""
    mean = sum(map(sum, samples)) / (4 * len(samples))
    total = sum((a - mean) * (b - mean) for problem in samples for a in problem for b in problem)
    found = clustered_mean([sum(problem) / 4 for problem in samples], 4)
    n = len(samples)
    assert found.se == pytest.approx(math.sqrt(total * n / (n - 1)) / (4 * n) if n > 1 else 0.0, abs=1e-12)
    low, high = found.ci95
    assert 0 <= low <= found.value <= high <= 1
    assert low < high


def coverage(p, n, samples, alike):
    """Of intervals in 1000 simulated evaluations: problems of differing difficulty, samples of each.

    alike: how alike the samples of a problem are; at 0 all problems have one difficulty.
    """
    rng, covered = random.Random(1), 0
    for _ in range(1000):
        values = []
        for _ in range(n):
            difficulty = rng.betavariate(2 * p / alike, 2 * (1 - p) / alike) if alike else p
            values.append(sum(rng.random() < difficulty for _ in range(samples)) / samples)
        low, high = clustered_mean(values, samples).ci95
        covered += low <= p <= high
    return covered / 1000


@pytest.mark.parametrize(
    ("p", "n", "samples", "alike"),
    [
        (0.3, 60, 1, 0), (0.3, 60, 8, 0), (0.3, 60, 8, 2), (0.3, 30, 32, 4), (0.3, 200, 4, 50), (0.5, 30, 32, 1),
        (0.9, 40, 32, 1), (0.05, 500, 1, 0), (0.05, 500, 8, 1),
    ],
)  # fmt: skip
def test_intervals_cover(p, n, samples, alike):
    assert 0.93 <= coverage(p, n, samples, alike) <= 0.98


@pytest.mark.parametrize(("p", "n", "samples", "alike"), [(0.05, 30, 32, 2), (0.02, 40, 16, 1), (0.1, 12, 8, 1)])
def test_intervals_cover_less_where_few_of_few_problems_are_right(p, n, samples, alike):
    """The caveat in docs/evaluation.md: so few problems don't show the variance between problems."""
    assert 0.80 <= coverage(p, n, samples, alike) <= 0.93


def test_counting_samples_of_a_problem_as_independent_would_not_cover():
    rng, covered = random.Random(1), 0
    for _ in range(300):
        values = [rng.betavariate(0.15, 0.35) for _ in range(30)]
        right = sum(sum(rng.random() < value for _ in range(32)) for value in values)
        interval = binomtest(right, 30 * 32).proportion_ci(method="wilson")
        covered += interval.low <= 0.3 <= interval.high
    assert covered < 150


def test_no_problems():
    with pytest.raises(ValueError, match="no problems"):
        clustered_mean([])


def test_the_values_of_k():
    assert [powers_up_to(n) for n in (1, 2, 4, 6, 32)] == [
        [1], [1, 2], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8, 16, 32],
    ]  # fmt: skip


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 400), st.integers(1, 64), st.sampled_from([0.0, 1.0]))
def test_at_none_and_all_right_more_samples_never_widen_the_interval(n, samples, more_n, more_samples, value):
    low, high = clustered_mean([value] * n, samples).ci95
    inner_low, inner_high = clustered_mean([value] * (n + more_n), samples + more_samples).ci95
    assert 0 <= low <= inner_low <= inner_high <= high <= 1
    for other in (clustered_mean([value] * n, samples + more_samples), clustered_mean([value] * (n + more_n), samples)):
        assert low <= other.ci95[0] <= other.ci95[1] <= high
