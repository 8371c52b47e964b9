"""Which samples are kept, against loops over groups and rewards."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import PRESETS, group_advantages
from lambda_grpo.objective.groups import has_variance
from lambda_grpo.objective.rollout_spec import AtLeast, BestAndWorst, ErrorCorrection, RolloutSpec
from tests.objective import reference

REWARDS = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(-3, 3), st.just(math.nan))
ROWS = st.lists(st.tuples(REWARDS, st.integers(-2, 2)), max_size=24)


def tensors(rows):
    rewards = torch.tensor([reward for reward, _ in rows], dtype=torch.float64)
    return rewards, torch.tensor([group for _, group in rows], dtype=torch.long)


@given(ROWS, st.integers(1, 5))
def test_best_and_worst_of_each_group(rows, k):
    rewards, ids = tensors(rows)
    expected = [False] * len(rows)
    for members in reference.groups(ids.tolist()):
        ranked = sorted((i for i in members if not math.isnan(rewards[i])), key=lambda i: rewards[i])  # a stable sort
        for i in {*ranked[:k], *ranked[-k:]}:
            expected[i] = True
    assert BestAndWorst(k)(rewards, ids).tolist() == expected


@given(ROWS, st.floats(-3, 3))
def test_samples_with_at_least_a_reward(rows, least):
    rewards, ids = tensors(rows)
    rounding = 4 * 2**-23 * abs(least)
    assert AtLeast(least)(rewards, ids).tolist() == [reward >= least - rounding for reward in rewards.tolist()]


def test_a_reward_in_float32_is_at_least_itself():
    assert torch.tensor(0.7).double() < 0.7
    assert AtLeast(0.7)(torch.tensor([0.7, 0.69, 0.71]).double(), torch.zeros(3)).tolist() == [True, False, True]


@given(ROWS)
def test_a_group_is_informative_where_two_of_its_rewards_differ(rows):
    rewards, ids = tensors(rows)
    expected = [False] * len(rows)
    for members in reference.groups(ids.tolist()):
        known = [rewards[i].item() for i in members if not math.isnan(rewards[i])]
        for i in members:  # by more than rounding
            expected[i] = bool(known) and max(known) - min(known) > 4 * 2**-52 * max(map(abs, known))
    assert has_variance(rewards, ids).tolist() == expected


def test_which_samples_are_kept():
    rewards, ids = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert RolloutSpec().is_kept(rewards, ids).all()
    assert RolloutSpec(dynamic_sampling=True).is_kept(rewards, ids).tolist() == [True] * 3 + [False] * 3
    assert RolloutSpec(drop_zero_variance=True).is_kept(rewards, ids).tolist() == [True] * 3 + [False] * 3
    both = RolloutSpec(dynamic_sampling=True, selection=BestAndWorst(1))
    assert both.is_kept(rewards, ids).tolist() == [True, True, False, False, False, False]
    assert PRESETS["devis_grpo"].rollouts.is_kept(rewards, ids).all()  # 2 best and 2 worst of 3


@given(st.integers(1, 7), st.integers(1, 4))
def test_what_a_selection_does_to_the_baseline(right, k):
    """Eight answers, some right: the selected advantages sum to 0 over their own baseline, else they push one way."""
    rewards, ids = torch.tensor([1.0] * right + [0.0] * (8 - right), dtype=torch.float64), torch.zeros(8)
    kept = BestAndWorst(k)(rewards, ids)
    whole = group_advantages(rewards, ids, "none")[kept]
    selected = group_advantages(rewards[kept], ids[kept], "none")
    assert selected.sum().item() == pytest.approx(0.0, abs=1e-12)
    # over the group's: n(r̄ − p), r̄ the selected mean and p the pass rate
    expected = kept.sum().item() * (rewards[kept].mean().item() - right / 8)
    assert whole.sum().item() == pytest.approx(expected, abs=1e-12)
    if k <= min(right, 8 - right):  # k right and k wrong, whatever the pass rate: k(1 − 2p) is left over
        assert expected == pytest.approx(k * (1 - 2 * right / 8))
        assert selected.abs().tolist() == pytest.approx([0.5] * (2 * k))


def test_at_least_over_its_own_baseline_has_nothing_to_say():
    rewards, ids = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.zeros(4)
    kept = AtLeast(1.0)(rewards, ids)
    assert group_advantages(rewards[kept], ids[kept]).tolist() == [0.0, 0.0]
    assert group_advantages(rewards, ids, "none")[kept].tolist() == [0.5, 0.5]


def test_values_out_of_range_are_named():
    with pytest.raises(ValueError, match="k must be at least 1"):
        BestAndWorst(0)
    with pytest.raises(ValueError, match="baseline of a selection is 'mean'"):
        AtLeast(1.0, "mean")
    with pytest.raises(ValueError, match="sum to 1 or less"):
        ErrorCorrection(0.9, 0.2, 0.0)
    with pytest.raises(ValueError, match="at least 0"):
        ErrorCorrection(-0.1, 0.2, 0.0)
    with pytest.raises(ValueError, match="overlong_buffer is a share"):
        RolloutSpec(overlong_buffer=4096)
