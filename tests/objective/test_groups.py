import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import group_advantages
from tests.objective import reference

REWARDS = st.one_of(st.floats(-5, 5), st.just(math.nan))


@given(
    st.lists(st.tuples(REWARDS, st.integers(-3, 3)), min_size=1, max_size=24),
    st.sampled_from(["group", "batch", "none"]),
)
def test_advantages_equal_the_loop(rows, scale):
    rewards, ids = [row[0] for row in rows], [row[1] for row in rows]
    ours = group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(ids), scale)
    assert ours.tolist() == pytest.approx(reference.advantages(rewards, ids, scale), abs=1e-9)


def test_by_hand():
    # one group: mean 0.5, sample std of (1, 0, 0, 1) = sqrt(1/3)
    ours = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.long))
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert ours.tolist() == pytest.approx([expected, -expected, -expected, expected])


def test_integer_rewards_are_taken_as_numbers():
    assert group_advantages(torch.tensor([1, 0]), torch.tensor([5, 5]), "none").tolist() == [0.5, -0.5]


def test_a_group_without_any_reward_has_no_advantage():
    rewards = torch.tensor([math.nan, math.nan, 1.0, 0.0])
    assert group_advantages(rewards, torch.tensor([0, 0, 1, 1]))[:2].tolist() == [0.0, 0.0]


def test_refuses():
    with pytest.raises(ValueError, match="unknown advantage scale 'batchwise'"):
        group_advantages(torch.ones(2), torch.ones(2), "batchwise")
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        group_advantages(torch.ones(2), torch.ones(3))
