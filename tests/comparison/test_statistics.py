"""What a study says, against plain loops, and over many studies whose answer is known."""

import gc
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.comparison.results import results
from lambda_grpo.comparison.statistics import detectable_difference, holm, mean_ci95, paired_difference, verdict
from tests.comparison.simulated import simulated_results, simulated_run, simulated_study

T_975 = {1: 12.7062, 4: 2.77645, 9: 2.26216}  # quantiles of Student's t, from a table
VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@pytest.fixture(autouse=True, scope="module")
def _quick_collections():
    """statsmodels' correction collects garbage at each call: not through all that torch has imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_an_interval_by_hand():
    """Differences 1, 2, 3, 4, 5: mean 3, standard deviation √2.5."""
    found = paired_difference({i: 10.0 * i + i for i in range(1, 6)}, {i: 10.0 * i for i in range(1, 6)})
    half = T_975[4] * math.sqrt(2.5) / math.sqrt(5)
    assert (found.difference, found.n) == (3.0, 5)
    assert found.ci95 == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert found.p == pytest.approx(0.0132, abs=2e-4)  # t = 4.243 with 4 degrees of freedom
    assert 1 < found.bootstrap_ci95[0] < 3 < found.bootstrap_ci95[1] < 5
    assert mean_ci95([1.0, 2.0, None, 3.0, 4.0, 5.0]) == {
        "mean": 3.0, "ci95": pytest.approx([3 - half, 3 + half], rel=1e-5), "n": 5,
    }  # fmt: skip


def test_only_seeds_that_both_have_are_compared():
    found = paired_difference({1: 5.0, 2: 7.0, 9: 100.0}, {1: 4.0, 2: 4.0, 3: -50.0})
    assert (found.difference, found.n) == (2.0, 2)
    assert found.ci95 == pytest.approx((2 - T_975[1], 2 + T_975[1]), rel=1e-4)


def test_without_spread_or_with_one_seed():
    same = paired_difference({1: 0.5, 2: 0.7}, {1: 0.5, 2: 0.7})
    assert same.difference == 0.0
    assert same.ci95 is same.bootstrap_ci95 is same.p is same.sd is None
    # 0.03 − 0.01, …: the same but for rounding. Two seeds agree often, where accuracies are multiples of 1/100
    apart = paired_difference({1: 0.03, 2: 0.53, 3: 0.93}, {1: 0.01, 2: 0.51, 3: 0.91})
    assert (apart.difference, apart.n) == (pytest.approx(0.02), 3)
    assert apart.ci95 is apart.bootstrap_ci95 is apart.p is apart.sd is None
    one = paired_difference({1: 0.5}, {1: 0.25})
    assert (one.difference, one.n, one.ci95, one.bootstrap_ci95, one.p) == (0.25, 1, None, None, None)
    assert verdict(0.25, None, True) == "no interval"
    assert mean_ci95([0.5]) == {"mean": 0.5, "ci95": None, "n": 1}
    assert mean_ci95([None]) is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_is_the_plain_loop(p_values):
    known = sorted(p for p in p_values if p is not None)
    expected, greatest = {}, 0.0
    for i, p in enumerate(known):
        greatest = max(greatest, min(1.0, (len(known) - i) * p))
        expected.setdefault(p, greatest)
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        assert corrected is None if p is None else corrected >= expected[p] - 1e-12
    assert sorted(p for p in holm(p_values) if p is not None) == pytest.approx(
        [max(min(1.0, (len(known) - j) * known[j]) for j in range(i + 1)) for i in range(len(known))]
    )


@given(VALUES, VALUES)
def test_the_other_way_round(ours, theirs):
    n = min(len(ours), len(theirs))
    a, b = dict(enumerate(ours[:n])), dict(enumerate(theirs[:n]))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.difference == pytest.approx(-other.difference)
    if one.ci95 is None:
        assert other.ci95 is None
    else:
        assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]), abs=1e-9)


@pytest.mark.parametrize(("n", "comparisons"), [(2, 1), (2, 3), (3, 3), (3, 7), (4, 7), (5, 1), (10, 3), (40, 3)])
def test_a_detectable_difference_is_found_four_times_in_five(n, comparisons):
    """A paired t test, written out, on differences whose mean is the detectable one."""
    from scipy.stats import t

    least = detectable_difference(2.0, n, comparisons)
    critical = t.ppf(1 - 0.05 / comparisons / 2, n - 1)
    draw = np.random.default_rng(0)
    differences = draw.normal(least, 2.0, (20_000, n))
    statistics = differences.mean(1) / (differences.std(1, ddof=1) / math.sqrt(n))
    assert (np.abs(statistics) > critical).mean() == pytest.approx(0.8, abs=0.012)
    assert detectable_difference(None, 1, comparisons) is None
    assert detectable_difference(0.0, n, comparisons) is None


def test_all_alike_is_said():
    study = simulated_study(["a", "b", "c"], seeds=3)
    figures = {"completion_length_mean": 9.0, "entropy": 0.1}
    runs = [
        simulated_run(random.Random(0), arm, "arithmetic", seed, {"accuracy": 0.5 + 0.25 * (arm == "c"), **figures})
        for seed in study.seeds
        for arm in study.arms
    ]
    same, apart = results(study, runs, [], [])["comparisons"]
    assert (same["verdict"], same["ci95"], same["p"], same["p_holm"]) == ("no interval", None, None, None)
    assert "equal with each of 3 seeds" in same["sentence"]
    assert (apart["verdict"], apart["ci95"], apart["p_holm"]) == ("no interval", None, None)
    assert "+25.00 points with each of 3 seeds" in apart["sentence"]


def test_the_same_objective_under_two_names_differs_in_at_most_ten_of_a_hundred_studies():
    draw = random.Random(0)
    silent = 0
    for _ in range(100):
        (row,) = simulated_results(draw, {"dapo": 0.0, "dapo_again": 0.0}, seeds=10)["comparisons"]
        silent += row["verdict"] == "no detectable difference"
    assert silent >= 90


def test_of_three_names_for_the_same_objective_some_differ_in_at_most_ten_of_a_hundred_studies():
    """Holm: the more names, the stricter."""
    draw = random.Random(1)
    silent = 0
    for _ in range(100):
        rows = simulated_results(draw, {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}, seeds=5)["comparisons"]
        silent += all(row["verdict"] == "no detectable difference" for row in rows)
    assert silent >= 90


def test_a_planted_effect_is_found():
    """An arm that is better by two points, where runs differ by one: with ten seeds in nine of ten studies."""
    draw = random.Random(2)
    found, covered = 0, 0
    for _ in range(100):
        better, same = simulated_results(draw, {"base": 0.0, "better": 0.02, "same": 0.0}, seeds=10)["comparisons"]
        found += better["verdict"] == "better"
        covered += better["ci95"][0] <= 0.02 <= better["ci95"][1]
        assert better["verdict"] != "worse"
        assert (better["objective"], same["objective"]) == ("better", "same")
    assert found >= 90
    assert covered >= 88


def test_one_seed_has_no_interval_and_says_why():
    found = simulated_results(random.Random(3), {"a": 0.0, "b": 0.3}, seeds=1)
    (row,) = found["comparisons"]
    assert row["ci95"] is row["bootstrap_ci95"] is row["p"] is row["p_holm"] is row["detectable_difference"] is None
    assert row["verdict"] == "no interval"
    assert "no interval" in row["sentence"]
    assert any("one seed" in sentence for sentence in found["verdict"])
    assert all(one["accuracy"]["ci95"] is None for one in found["objectives"])


def test_an_endpoint_without_a_better_side_is_higher_or_lower():
    arms = {"base": 0.0, "longer": 9.0}
    found = simulated_results(random.Random(4), arms, seeds=6, endpoint="completion_length_mean")
    (row,) = found["comparisons"]
    assert row["verdict"] == "higher"
    assert "tokens" in row["sentence"]


SHARES = st.lists(st.one_of(st.floats(0, 1), st.just(0.0), st.just(1.0)), min_size=2, max_size=6)


@given(SHARES, SHARES)
def test_no_interval_leaves_what_is_possible(ours, theirs):
    n = min(len(ours), len(theirs))
    low, high = mean_ci95(ours, (0.0, 1.0))["ci95"]
    assert 0 <= low <= sum(ours) / len(ours) + 1e-12
    assert 1 >= high >= sum(ours) / len(ours) - 1e-12
    found = paired_difference(dict(enumerate(ours[:n])), dict(enumerate(theirs[:n])), (0.0, 1.0))
    if found.ci95 is not None:
        assert -1 <= found.ci95[0] <= found.difference + 1e-12
        assert 1 >= found.ci95[1] >= found.difference - 1e-12


def test_figures_and_differences_of_few_seeds_stay_possible():
    """Two seeds, far apart: t intervals would go from below 0 to above what there is."""
    study = simulated_study(["a", "b"], seeds=2, endpoint="completion_length_mean")
    draw = random.Random(0)
    limits = {"completion_length_mean": [0.0, 24.0], "lambda": [-2.0, 2.0], "reward": [0.0, 1.0]}
    figures = {
        ("a", 1): (0.9, 3.0, 0.01), ("a", 2): (0.99, 23.0, 0.4), ("b", 1): (0.1, 20.0, 0.5), ("b", 2): (1.0, 1.0, 0.02),
    }  # fmt: skip
    names = ("accuracy", "completion_length_mean", "entropy")
    runs = [
        simulated_run(draw, arm, "arithmetic", seed, dict(zip(names, values, strict=True)))
        | {"lambda": 1.9 * (-1) ** seed, "limits": limits}
        for (arm, seed), values in figures.items()
    ]
    found = results(study, runs, [], [])
    for row in found["objectives"]:
        for name, (low, high) in {
            "accuracy": (0, 1), "completion_length_mean": (0, 24), "entropy": (0, math.inf), "lambda": (-2, 2),
            "grad_clip_fraction": (0, 1), "num_tokens": (0, math.inf),
        }.items():  # fmt: skip
            assert low <= row[name]["ci95"][0] < row[name]["mean"] < row[name]["ci95"][1] <= high
    (row,) = found["comparisons"]
    assert row["ci95"] == [-24.0, 24.0]
    assert row["detectable_difference"] is None
    assert "would not have detected even the largest possible difference" in row["sentence"]


def test_a_figure_that_no_run_has_is_none():
    study = simulated_study(["a", "b"], seeds=2)
    runs = [
        simulated_run(random.Random(0), arm, "arithmetic", seed, {"accuracy": 0.5, "completion_length_mean": 9.0})
        | {"entropy": math.nan, "clip_fraction": None, "tokens_to_target": None}
        for arm in study.arms
        for seed in study.seeds
    ]
    found = results(study, runs, [], [])
    for row in found["objectives"]:
        assert row["entropy"] is row["clip_fraction"] is row["tokens_to_target"] is row["lambda"] is None
    assert results(simulated_study(["a", "b"], seeds=2, endpoint="entropy"), runs, [], [])["comparisons"] == []


def test_runs_without_anything_to_learn_from_are_named():
    study = simulated_study(["a", "b"], seeds=2)
    runs = simulated_results(random.Random(5), {"a": 0.0, "b": 0.0}, seeds=2)["runs"]
    runs = [{**run, "informative_groups": 0.0 if run["objective"] == "b" else 0.1} for run in runs]
    named = "b on arithmetic (seed 1), b on arithmetic (seed 2)"
    expected = f"Runs without anything to learn from, since no group had differing rewards: {named}."
    assert results(study, runs, [], [])["verdict"][-1] == expected
