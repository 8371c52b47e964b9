"""What a study says, against plain loops, and over many studies whose answer is known."""

import gc
import math
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo.comparison import arms_table
from lambda_grpo.comparison.statistics import (
    RateValues,
    detectable_difference,
    holm,
    mean_ci95,
    paired_difference,
    verdict,
)
from lambda_grpo.report.study_page import write_study_report
from lambda_grpo.runs.limits import limits_of, reward_limits
from tests.comparison.simulated import results, simulated_results, simulated_run, simulated_study, swept_results


def at_one_rate(values):
    return RateValues(np.array([values]), np.array([values]))


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
    found = paired_difference(
        at_one_rate([11.0 * i for i in range(1, 6)]), at_one_rate([10.0 * i for i in range(1, 6)])
    )
    half = T_975[4] * math.sqrt(2.5) / math.sqrt(5)
    assert (found.difference, found.n) == (3.0, 5)
    assert found.ci95 == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert found.p == pytest.approx(0.0132, abs=2e-4)  # t = 4.243 with 4 degrees of freedom
    assert found.fixed_ci95 == found.ci95
    assert found.se == pytest.approx(math.sqrt(2.5 / 5))
    assert mean_ci95([1.0, 2.0, None, 3.0, 4.0, 5.0]) == {
        "mean": 3.0, "ci95": pytest.approx([3 - half, 3 + half], rel=1e-5), "n": 5,
    }  # fmt: skip


def test_only_seeds_that_both_have_are_compared():
    draw, study = random.Random(0), simulated_study(["a", "b"], seeds=4)
    values = {"a": {1: 0.44, 2: 0.46, 3: 0.1}, "b": {1: 0.5, 2: 0.54, 4: 1.0}}
    runs = [
        simulated_run(draw, arm, "arithmetic", seed, {"accuracy": value, "completion_length_mean": 9.0, "entropy": 0.1})
        for arm, of_arm in values.items()
        for seed, value in of_arm.items()
    ]
    (row,) = results(study, runs)["comparisons"]
    assert (row["difference"], row["n"]) == (pytest.approx(0.07), 2)
    assert row["ci95"] == pytest.approx([0.07 - T_975[1] * 0.01, 0.07 + T_975[1] * 0.01], rel=1e-4)


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_bootstrap_chooses_the_rates_anew_in_a_plain_loop(seed, n, rates, others):
    draw = np.random.default_rng(seed)
    arms = [RateValues(draw.random((r, n)), draw.random((r, n))) for r in (rates, others)]
    found = paired_difference(*arms)

    def difference(seeds):
        means = []
        for arm in arms:
            by_rate = [np.mean([arm.choice[r][s] for s in seeds]) for r in range(len(arm.choice))]
            means.append(np.mean([arm.endpoint[by_rate.index(max(by_rate))][s] for s in seeds]))
        return means[0] - means[1]

    assert found.difference == pytest.approx(difference(range(n)))
    sampled = [difference(draw.integers(0, n, n)) for _ in range(1000)]
    assert found.se == pytest.approx(np.std(sampled) * math.sqrt(n / (n - 1)), rel=0.15)
    half = T_975.get(n - 1)
    if half is not None:
        assert found.ci95 == pytest.approx(
            (found.difference - half * found.se, found.difference + half * found.se), rel=1e-4
        )


def test_the_choice_of_a_rate_is_in_the_interval():
    """Two rates that are equally good on average, one of them best with each of two halves of the seeds."""
    n = 8
    good = np.array([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4])
    found = paired_difference(RateValues(good, good), RateValues(np.zeros((1, n)), np.linspace(0, 0.01, n)[None]))
    fixed = (found.fixed_ci95[1] - found.fixed_ci95[0]) / 2
    assert found.ci95[1] - found.difference != pytest.approx(fixed, rel=0.01)


def test_with_several_rates_the_same_objective_under_other_names_rarely_differs():
    """Each of three names picks the best of four rates by its own noise."""
    draw, silent, covered, widths = random.Random(6), 0, 0, []
    for _ in range(200):
        rows = swept_results(draw, {"a": 0.0, "b": 0.0, "c": 0.0}, seeds=10)["comparisons"]
        silent += all(row["verdict"] == "no detectable difference" for row in rows)
        covered += sum(row["ci95"][0] <= 0 <= row["ci95"][1] for row in rows)
        widths += [(row["ci95"][1] - row["ci95"][0]) / (row["fixed_ci95"][1] - row["fixed_ci95"][0]) for row in rows]
    assert silent >= 180
    assert covered >= 368  # of 400; 380 expected
    assert np.mean(widths) > 1


def test_a_planted_effect_is_found_at_another_rate():
    """An arm that is better by two points, and best at another rate than the others."""
    draw, found = random.Random(7), 0
    for _ in range(50):
        (row,) = swept_results(draw, {"base": 0.0, "better": 0.02}, seeds=20)["comparisons"]
        found += row["verdict"] == "better"
        assert {one["learning_rate"] for one in row["by_rate"]} == {1e-4, 2e-4, 4e-4, 8e-4}
    assert found >= 45


def test_the_rate_is_chosen_on_the_problems_that_are_not_reported():
    """On the choosing half 8e-4 is best, on the reported one the worst."""
    study = simulated_study(["a", "b"], seeds=3, rates=(1e-4, 8e-4))
    draw, runs = random.Random(0), []
    for arm in study.arms:
        for seed in study.seeds:
            for rate in study.learning_rates:
                high, noise = rate == 8e-4, 0.01 * seed * (arm == "b")
                halves = {
                    "choosing": {"accuracy": 0.5 + 0.2 * high, "accuracy_area": None},
                    "reported": {"accuracy": 0.5 - 0.2 * high + noise, "accuracy_area": None},
                }
                figures = {"accuracy": 0.5 + noise / 2, "completion_length_mean": 9.0, "entropy": 0.1, **halves}
                runs.append(simulated_run(draw, arm, "arithmetic", seed, figures, rate))
    found = results(study, runs)
    assert [(row["learning_rate"], row["chosen"]) for row in found["sweep"]] == [(1e-4, False), (8e-4, True)] * 2
    assert found["objectives"][0]["accuracy"]["mean"] == pytest.approx(0.3)
    assert found["comparisons"][0]["difference"] == pytest.approx(0.02)
    assert {run["learning_rate"] for run in found["runs"] if run["chosen"]} == {8e-4}


def test_without_spread_or_with_one_seed():
    same = paired_difference(at_one_rate([0.5, 0.7]), at_one_rate([0.5, 0.7]))
    assert same.difference == 0.0
    assert same.ci95 is same.fixed_ci95 is same.p is same.se is None
    # 0.03 − 0.01, …: the same but for rounding. Two seeds agree often, where accuracies are multiples of 1/100
    apart = paired_difference(at_one_rate([0.03, 0.53, 0.93]), at_one_rate([0.01, 0.51, 0.91]))
    assert (apart.difference, apart.n) == (pytest.approx(0.02), 3)
    assert apart.ci95 is apart.fixed_ci95 is apart.p is apart.se is None
    one = paired_difference(at_one_rate([0.5]), at_one_rate([0.25]))
    assert (one.difference, one.n, one.ci95, one.fixed_ci95, one.p) == (0.25, 1, None, None, None)
    assert verdict(0.25, None, "higher") == "no interval"
    assert verdict(-3.0, 0.01, "lower") == "better"
    assert verdict(-3.0, 0.01, None) == "lower"
    assert mean_ci95([0.5]) == {"mean": 0.5, "ci95": None, "n": 1}
    assert mean_ci95([1.0, 1.0, 1.0], (0.0, 1.0)) == {"mean": 1.0, "ci95": None, "n": 3}
    assert mean_ci95([0.1 + 0.2, 0.3])["ci95"] is None  # the same but for rounding
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
    a, b = at_one_rate(ours[:n]), at_one_rate(theirs[:n])
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

    least = detectable_difference(2.0 / math.sqrt(n), n, comparisons)
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
    same, apart = results(study, runs)["comparisons"]
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
    assert row["ci95"] is row["fixed_ci95"] is row["p"] is row["p_holm"] is row["detectable_difference"] is None
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
    mean = mean_ci95(ours, (0.0, 1.0))
    if mean["ci95"] is not None:
        assert 0 <= mean["ci95"][0] <= sum(ours) / len(ours) + 1e-12
        assert 1 >= mean["ci95"][1] >= sum(ours) / len(ours) - 1e-12
    found = paired_difference(at_one_rate(ours[:n]), at_one_rate(theirs[:n]), (0.0, 1.0))
    if found.ci95 is not None:
        assert -1 <= found.ci95[0] <= found.difference + 1e-12
        assert 1 >= found.ci95[1] >= found.difference - 1e-12


def test_figures_and_differences_of_few_seeds_stay_possible(tmp_path):
    """Two seeds, far apart: t intervals would go from below 0 to above what there is, in the record and on the page."""
    study = simulated_study(["a", "b"], seeds=2, endpoint="completion_length_mean")
    draw = random.Random(0)
    limits = {
        "completion_length_mean": [0.0, 24.0],
        "lambda": [-2.0, 2.0],
        "tokens_to_target": [0, 90_000],
        "reward": [0, 1],
    }
    figures = {
        ("a", 1): (0.9, 3.0, 0.01), ("a", 2): (0.99, 23.0, 0.4), ("b", 1): (0.1, 20.0, 0.5), ("b", 2): (1.0, 1.0, 0.02),
    }  # fmt: skip
    names = ("accuracy", "completion_length_mean", "entropy")
    runs = [
        simulated_run(draw, arm, "arithmetic", seed, dict(zip(names, values, strict=True)))
        | {
            "lambda": 1.9 * (-1) ** seed,
            "limits": {**limits, "reward": [0.0, 1.0]},
            "tokens_to_target": 2_000 + 80_000 * (seed - 1),
        }
        | {"grad_clip_fraction": seed / 3, "share_right": 0.5 + seed / 4, "clip_fraction": 0.01 * seed}
        | {"share_by_length_quartile": [seed / 4, 0.5 - seed / 4, 0.4, 0.1], "num_tokens": 90_000 + seed}
        for (arm, seed), values in figures.items()
    ]
    found = results(study, runs)
    for row in found["objectives"]:
        for name, (low, high) in {
            "accuracy": (0, 1), "completion_length_mean": (0, 24), "entropy": (0, math.inf), "lambda": (-2, 2),
            "grad_clip_fraction": (0, 1), "num_tokens": (0, math.inf), "share_right": (0, 1), "clip_fraction": (0, 1),
            "tokens_to_target": (0, 90_000),
        }.items():  # fmt: skip
            assert low <= row[name]["ci95"][0] < row[name]["mean"] < row[name]["ci95"][1] <= high
        for share in row["share_by_length_quartile"][:2]:
            assert 0 <= share["ci95"][0] < share["mean"] < share["ci95"][1] <= 1
        assert row["share_by_length_quartile"][2]["ci95"] is None  # both seeds have the same
    (row,) = found["comparisons"]
    assert row["ci95"] == [-24.0, 24.0]
    assert row["detectable_difference"] is None
    assert "would not have detected even the largest possible difference" in row["sentence"]
    (_, (*_, interval, _, _)) = arms_table(found, "arithmetic")[1]
    assert interval == "-24.00 to +24.00"
    shown = re.findall(r"<small>(\S+) – (\S+)</small>", write_study_report(found, tmp_path).read_text())
    ends = {tuple(float(end.replace(",", "").replace("−", "-")) for end in pair) for pair in shown}
    assert {(0.0, 100.0), (0.0, 24.0), (-2.0, 2.0), (0.0, 90.0)} <= ends
    assert all(low >= 0 or low == -2 for low, _ in ends)


def test_a_cut_interval_covers_the_true_value_as_often_as_the_whole():
    """Accuracies close to 1, three seeds each: a t interval of their mean leaves [0, 1] in most studies."""
    draw, true, covered, cut = np.random.default_rng(0), 0.985, 0, 0
    for _ in range(1000):
        accuracies = (draw.binomial(200, true, 3) / 200).tolist()
        found = mean_ci95(accuracies, (0.0, 1.0))["ci95"]
        if found is not None:
            whole = mean_ci95(accuracies)["ci95"]
            covered += found[0] <= true <= found[1]
            assert (found[0] <= true <= found[1]) == (whole[0] <= true <= whole[1])
            cut += found != whole
    assert cut > 300
    assert covered > 850


def test_the_limits_of_rewards_are_those_of_a_grade_unless_others_occurred():
    assert reward_limits([0.2, None, 0.7]) == (0.0, 1.0)
    assert reward_limits([-0.5, 0.7]) == (-0.5, 1.0)
    assert limits_of("reward", [{"limits": {"reward": [0, 1]}}, {"limits": {"reward": [-1, 2]}}]) == (-1, 2)
    assert limits_of("lambda", [{"limits": {"lambda": [-2, 3]}}, {"limits": {"lambda": [-4, 2]}}]) == (-4, 3)
    assert limits_of("lambda", [{"limits": {}}]) == (-math.inf, math.inf)


def test_a_figure_that_no_run_has_is_none():
    study = simulated_study(["a", "b"], seeds=2)
    runs = [
        simulated_run(random.Random(0), arm, "arithmetic", seed, {"accuracy": 0.5, "completion_length_mean": 9.0})
        | {"entropy": math.nan, "clip_fraction": None, "tokens_to_target": None}
        for arm in study.arms
        for seed in study.seeds
    ]
    found = results(study, runs)
    for row in found["objectives"]:
        assert row["entropy"] is row["clip_fraction"] is row["tokens_to_target"] is row["lambda"] is None
    assert results(simulated_study(["a", "b"], seeds=2, endpoint="entropy"), runs)["comparisons"] == []


def test_runs_without_anything_to_learn_from_are_named():
    study = simulated_study(["a", "b"], seeds=2)
    runs = simulated_results(random.Random(5), {"a": 0.0, "b": 0.0}, seeds=2)["runs"]
    runs = [{**run, "informative_groups": 0.0 if run["objective"] == "b" else 0.1} for run in runs]
    named = "b on arithmetic (seed 1), b on arithmetic (seed 2)"
    expected = f"Runs without anything to learn from, since no group had differing rewards: {named}."
    assert results(study, runs)["verdict"][-1] == expected
