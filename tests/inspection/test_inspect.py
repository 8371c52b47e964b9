"""Shares, λ and correlations of samples, against plain loops over the formulas."""

import itertools
import json
import math
import random
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import PRESETS
from lambda_grpo.inspection import inspect_samples, read_samples, shares_table
from lambda_grpo.inspection.part import Part
from lambda_grpo.objective import loss_normalizer

ROWS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from([0.0, 1.0]), st.integers(0, 3), st.integers(0, 2)),
    min_size=1, max_size=40,
)  # fmt: skip


def samples_of(rows, folder):
    columns = dict(zip(("length", "reward", "group", "step"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return read_samples([folder / "rows.parquet"], {}, None)


def found(rows, folder, **settings):
    return inspect_samples(samples_of(rows, folder), **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


# -- the formulas as loops -------------------------------------------------------------------------------------------


def grouped(rows):
    """{step: {group: rows}}"""
    steps = defaultdict(lambda: defaultdict(list))
    for row in rows:
        steps[row[3]][row[2]].append(row)
    return {step: steps[step] for step in sorted(steps)}


def advantages(rewards, scale):
    mean = sum(rewards) / len(rewards)
    if scale == "none" or len(set(rewards)) == 1:
        return [0.0 if len(set(rewards)) == 1 else reward - mean for reward in rewards]
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / (std + 1e-4) for reward in rewards]


def powers(lengths, lam):
    mu = sum(lengths) / len(lengths)
    sigma = math.sqrt(sum((n - mu) ** 2 for n in lengths) / len(lengths))
    h = [1 + (n - mu) / (sigma + 1e-6) / 9 for n in lengths]
    return h, [math.exp(one**lam) for one in h]


def softmax_weights(lengths, lam):
    _, each = powers(lengths, lam)
    return [1.0 if n == 0 else len(each) * one / sum(each) for n, one in zip(lengths, each, strict=True)]


def inverse_lengths(lengths):
    mu = sum(lengths) / len(lengths)
    return [1.0 if n == 0 else mu / n for n in lengths]


def masses(rows, weigh, scale="group"):
    """(length, f · |A| · |o|, reward) of every row."""
    for groups in grouped(rows).values():
        for members in groups.values():
            lengths, rewards = [row[0] for row in members], [row[1] for row in members]
            f = weigh(lengths)
            for n, reward, a, one in zip(lengths, rewards, advantages(rewards, scale), f, strict=True):
                yield n, one * abs(a) * n, reward


def shares(rows, weigh, scale="group"):
    limits = np.quantile([row[0] for row in rows], (0.25, 0.5, 0.75))
    by_quartile, by_right = [0.0] * 4, [0.0] * 2
    for length, mass, reward in masses(rows, weigh, scale):
        by_quartile[sum(length > limit for limit in limits)] += mass
        by_right[int(reward == 1.0)] += mass
    total = sum(by_quartile)
    return ([x / total for x in by_quartile], [x / total for x in by_right]) if total > 0 else (None, None)


WEIGHTS = {
    "grpo": (inverse_lengths, "group"),
    "dapo": (lambda lengths: [1.0] * len(lengths), "group"),
    "dr_grpo": (lambda lengths: [1.0] * len(lengths), "none"),
}


@pytest.mark.parametrize("name", WEIGHTS)
@given(rows=ROWS)
def test_shares_of_a_fixed_objective(name, rows, folder):
    one = found(rows, folder, objectives={name: PRESETS[name]})["objectives"][name]
    by_quartile, by_right = shares(rows, *WEIGHTS[name])
    assert one["share_by_length_quartile"] == (None if by_quartile is None else pytest.approx(by_quartile, abs=1e-9))
    if by_right is not None and len({row[1] for row in rows}) == 2:
        assert one["share_by_right"] == pytest.approx(by_right, abs=1e-9)


def gradient(groups, lam):
    """dL/dλ of λ-GRPO over one step on policy: − Σ ∂f/∂λ · A · |o| / N."""
    total = sum(row[0] for members in groups.values() for row in members)
    found = 0.0
    for members in groups.values():
        lengths, rewards = [row[0] for row in members], [row[1] for row in members]
        h, each = powers(lengths, lam)
        p = [one / sum(each) for one in each]
        slope = [one**lam * math.log(one) for one in h]
        mean = sum(a * b for a, b in zip(p, slope, strict=True))
        for n, q, s, a in zip(lengths, p, slope, advantages(rewards, "group"), strict=True):
            found -= len(lengths) * q * (s - mean) * a * n / max(total, 1)
    return found


@given(rows=ROWS)
def test_lambda_is_replayed_step_by_step(rows, folder):
    lam, mass = 0.0, [0.0, 0.0]
    for groups in grouped(rows).values():
        flat = [row for members in groups.values() for row in members]
        for _, one, reward in masses(flat, lambda lengths, now=lam: softmax_weights(lengths, now)):
            mass[int(reward)] += one
        lam -= 0.1 * gradient(groups, lam)
    one = found(rows, folder, objectives={"lambda_grpo": PRESETS["lambda_grpo"]})["objectives"]["lambda_grpo"]
    assert one["lambda"] == pytest.approx(lam, abs=1e-9)
    if sum(mass) > 0 and len({row[1] for row in rows}) == 2:
        assert one["share_by_right"] == pytest.approx([x / sum(mass) for x in mass], abs=1e-9)


@pytest.mark.parametrize("name", ["dapo", "grpo", "dr_grpo", "luspo"])
@given(rows=ROWS)
def test_the_normaliser_of_several_steps_is_that_of_each(name, rows, folder):
    samples = samples_of(rows, folder)
    part = Part(samples, 0, 70)
    each = [loss_normalizer(part.lengths[one], part.ids[one], name, max_completion_length=70) for one in part.rows()]
    assert part.normalizer(PRESETS[name]).tolist() == torch.cat(each).tolist()


def made(count, effect, seed=0, size=8, steps=5):
    """Groups in which the log-odds of a right answer rise by `effect` per standard deviation of length."""
    draw = random.Random(seed)
    rows = []
    for group in range(count):
        for _ in range(size):
            z = draw.gauss(0, 1)
            p = 1 / (1 + math.exp(-effect * z))
            rows.append((max(1, round(100 + 20 * z)), float(draw.random() < p), group, group * steps // count))
    return rows


@pytest.mark.parametrize(
    ("effect", "says"),
    [(0.8, "a positive λ is supported"), (-0.8, "a negative λ is supported"), (0.0, "No evidence for a length")],
)
def test_the_verdict_finds_what_is_there_and_nothing_else(effect, says, folder):
    result = found(made(300, effect), folder)
    assert says in result["verdict"][0]
    assert np.sign(result["objectives"]["lambda_grpo"]["lambda"]) == np.sign(effect) or effect == 0


def test_the_interval_of_the_correlation_holds_what_it_promises(folder):
    """Of 200 sets of samples without any effect, about 5 in 100 intervals leave out 0."""
    outside = 0
    for seed in range(200):  # no objective: only the correlation
        low, high = found(made(40, 0.0, seed), folder, objectives={})["length_and_reward"]["ci95"]
        outside += not low <= 0 <= high
    assert 2 <= outside <= 22


def test_objectives_that_need_more_say_so(folder):
    result = found(made(20, 0.5), folder)["objectives"]
    assert result.keys() == PRESETS.keys()
    for name in ("edge_grpo", "lambda_grpo_prm", "grpo_lambda_tail"):
        assert result[name]["share_by_length_quartile"] is None
        assert result[name]["note"]
    assert result["dapo"]["implied_lambda"] == pytest.approx(0.0, abs=1e-4)
    assert result["grpo"]["implied_lambda"] < -1
    assert result["dapo"]["learning_rate_factor"] == 1.0
    for one in result.values():
        if one["share_by_length_quartile"] is not None:
            assert sum(one["share_by_length_quartile"]) == pytest.approx(1)


def test_parts_are_summed_as_if_they_were_one(folder, monkeypatch):
    rows = made(60, 0.4, steps=12)
    whole = found(rows, folder)
    monkeypatch.setattr("lambda_grpo.inspection.part.ROWS", 50)
    pieces = found(rows, folder)
    for name, one in whole["objectives"].items():
        for key in ("share_by_length_quartile", "share_by_right", "lambda", "learning_rate_factor"):
            assert pieces["objectives"][name][key] == (None if one[key] is None else pytest.approx(one[key]))
    for key, value in whole["length_and_reward"].items():
        assert pieces["length_and_reward"][key] == pytest.approx(value)


# -- over the course of a run ----------------------------------------------------------------------------------------


def spanned(rows, spans):
    """The rows of each span of steps."""
    return [[row for row in rows if first <= row[3] <= last] for first, last in spans]


@pytest.mark.parametrize("most", [4, 500])
@given(rows=ROWS)
def test_shares_by_step(most, rows, folder):
    """Against the loops over each span's own rows; quarters are those of all rows."""
    rows = [(*row[:3], 10 * row[3] + row[2]) for row in rows]  # up to 12 steps, of one group each
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lambda_grpo.inspection.spans.SPANS", most)
        result = found(rows, folder, objectives={"grpo": PRESETS["grpo"]})
    steps, spans = sorted({row[3] for row in rows}), result["step_spans"]
    assert len(spans) == min(len(steps), most)
    assert [step for first, last in spans for step in steps if first <= step <= last] == steps
    limits = np.quantile([row[0] for row in rows], (0.25, 0.5, 0.75))
    one = result["objectives"]["grpo"]["by_step"]
    for number, own in enumerate(spanned(rows, spans)):
        quarters, right = [0.0] * 4, 0.0
        for length, mass, reward in masses(own, inverse_lengths):
            quarters[sum(length > limit for limit in limits)] += mass
            right += mass * (reward == 1.0)
        total, share = sum(quarters), one["share_by_length_quartile"][number]
        assert share == (None if total == 0 else pytest.approx([x / total for x in quarters], abs=1e-9))
        if total > 0:
            assert one["share_right"][number] == pytest.approx(right / total, abs=1e-9)
        f = [x for members in grouped(own).values() for group in members.values()
             for x in inverse_lengths([row[0] for row in group])]  # fmt: skip
        assert (one["weight_min"][number], one["weight_max"][number]) == pytest.approx((min(f), max(f)))
        assert one["lambda"][number] is None
        groups = [members for step in grouped(own).values() for members in step.values()]
        silent = [len({row[1] for row in members}) == 1 for members in groups]
        for name, values in (("reward_mean", [row[1] for row in own]), ("length_mean", [row[0] for row in own]),
                             ("groups_without_signal", silent)):  # fmt: skip
            assert result["by_step"][name][number] == pytest.approx(sum(values) / len(values))


def test_lambda_by_step_is_that_of_a_span_s_last_step(folder, monkeypatch):
    rows = made(60, 0.8, steps=30)
    each = found(rows, folder)["objectives"]
    monkeypatch.setattr("lambda_grpo.inspection.spans.SPANS", 7)
    monkeypatch.setattr("lambda_grpo.inspection.part.ROWS", 50)
    result = found(rows, folder)
    last = [span[1] for span in result["step_spans"]]
    for name in ("lambda_grpo", "lambda_grpo_exp", "daro"):
        path = each[name]["by_step"]["lambda"]
        assert len(set(path)) == 30
        assert result["objectives"][name]["by_step"]["lambda"] == pytest.approx([path[step] for step in last])
        assert result["objectives"][name]["lambda"] == pytest.approx(each[name]["lambda"])
    assert result["objectives"]["edge_grpo"]["by_step"] is None


def test_a_run_of_many_steps_has_500_spans(folder):
    rows = [(1 + row % 5, float(row % 2), 0, row // 4) for row in range(4 * 1203)]
    result = found(rows, folder, objectives={"dapo": PRESETS["dapo"]})
    spans = result["step_spans"]
    assert len(spans) == 500
    assert (spans[0][0], spans[-1][1]) == (0, 1202)
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(spans))
    assert {last - first for first, last in spans} == {1, 2}
    json.dumps(result, allow_nan=False)


def test_where_no_sample_was_scored_there_is_no_share(folder):
    rows = [(length, math.nan if step == 1 else reward, 0, step) for step in range(3)
            for length, reward in ((3, 0.0), (5, 1.0))]  # fmt: skip
    result = found(rows, folder)
    assert result["by_step"]["reward_mean"] == [0.5, None, 0.5]
    for name in ("dapo", "lambda_grpo", "daro"):
        by_step = result["objectives"][name]["by_step"]
        assert [one is None for one in by_step["share_by_length_quartile"]] == [False, True, False]
        assert [one is None for one in by_step["share_right"]] == [False, True, False]
        assert None not in by_step["weight_min"] + by_step["weight_max"]


def test_saturation_is_said(folder):
    rows = [(length, float(length > 300), group, group) for group in range(40) for length in [50] * 7 + [400]]
    result = found(rows, folder, lambda_lr=100.0)
    share = result["objectives"]["lambda_grpo"]["saturated"]
    assert share > 0.5
    *_, sentence = shares_table(result)[2]
    assert f"lambda_grpo {100 * share:.1f} %" in sentence
    assert not any("nine tenths" in one for one in shares_table(found(rows, folder, lambda_lr=0.0))[2])


def test_daro_says_why_it_cannot_learn(folder):
    rows = made(20, 0.5)
    learned = found(rows, folder)["objectives"]["daro"]
    assert len(learned["lambdas"]) == 7
    assert learned["lambda"] == pytest.approx(np.mean(learned["lambdas"]))
    left = found(rows[1:], folder)["objectives"]["daro"]
    assert left["lambda"] is None
    assert "groups of one size, and these have 7 to 8 samples" in left["note"]


def test_graded_rewards_have_no_right_and_wrong(folder):
    rows = [(10 * i + 1, i / 8, 0, 0) for i in range(8)]
    result = found(rows, folder)
    assert result["graded"]
    assert sum(result["objectives"]["dapo"]["share_by_right"]) == pytest.approx(1)
