import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import (
    PRESETS,
    effective_sample_size,
    group_advantages,
    lambda_penalty,
    loss_normalizer,
    response_weights,
)
from lambda_grpo.objective import mean_weights
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


SCALES = st.sampled_from(["group", "batch", "none"])


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 17)), min_size=1, max_size=4),
    SCALES,
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.randoms(),
)
def test_a_group_of_equal_rewards_has_an_advantage_of_exactly_0(groups, scale, dtype, random):
    """In any order, beside a group that has something to learn from and samples that couldn't be scored."""
    rows = [(value, group) for group, (value, size) in enumerate(groups) for _ in range(size)]
    rows += [(math.nan, 0), (1.0, 99), (0.0, 99), (math.nan, 99)]
    random.shuffle(rows)
    rewards, ids = (torch.tensor(column) for column in zip(*rows, strict=True))
    ours = group_advantages(rewards.to(dtype), ids, scale)
    assert all(a == 0 for a in ours[(ids != 99) | rewards.isnan()].tolist())
    assert all(a != 0 for a in ours[(ids == 99) & ~rewards.isnan()].tolist())


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_sums_that_only_float_rounding_tells_apart_are_equal(scale):
    """Where what was summed cancels, the caller knows how much was rounded."""
    ids = torch.zeros(2, dtype=torch.long)
    for dtype, parts in ((torch.float64, (0.1, 0.2, 0.3)), (torch.float32, (0.1, 0.6, 0.7))):
        a, b, total = (torch.tensor(part, dtype=dtype) for part in parts)
        assert a + b != total
        assert group_advantages(torch.stack([a + b, total]), ids, scale).tolist() == [0.0, 0.0]
        cancelled = torch.stack([a + b - total, total - total])
        assert group_advantages(cancelled, ids, scale)[0] != 0
        rounding = 5 * torch.finfo(dtype).eps * torch.stack([a + b + total, total + total])
        assert group_advantages(cancelled, ids, scale, rounding=rounding).tolist() == [0.0, 0.0]


@given(st.floats(-1, 1), st.floats(1e-3, 1.0), st.integers(2, 16), SCALES)
def test_small_differences_keep_their_advantage(base, step, size, scale):
    rewards = [base + step * (i % 3) for i in range(size)]
    ours = group_advantages(torch.tensor(rewards, dtype=torch.float32), torch.zeros(size), scale)
    expected = reference.advantages(rewards, [0] * size, scale)
    assert ours.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3 * max(map(abs, expected)))


def test_integer_rewards_are_taken_as_numbers():
    assert group_advantages(torch.tensor([1, 0]), torch.tensor([5, 5]), "none").tolist() == [0.5, -0.5]


def test_a_group_without_any_reward_has_no_advantage():
    rewards = torch.tensor([math.nan, math.nan, 1.0, 0.0])
    assert group_advantages(rewards, torch.tensor([0, 0, 1, 1]))[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", sorted(PRESETS))
@given(st.integers(1, 5), st.integers(1, 6), st.floats(-9, 9), st.randoms())
def test_rows_and_any_other_order_give_the_same(name, count, size, lam, random):
    """Groups that are the rows of a view, or gathered by index."""
    B = count * size
    lengths = torch.tensor([random.randrange(0, 40) for _ in range(B)])
    rewards = torch.tensor([random.choice([0.0, 1.0, 1.0, math.nan]) for _ in range(B)], dtype=torch.float64)
    given = {"entropies": torch.rand(B, 40), "completion_ids": torch.randint(0, 2, (B, 40))}
    ids, order = torch.arange(B) // size * 3, torch.tensor(random.sample(range(B), B))

    def stage_1(rows):
        own = lengths[rows], ids[rows]
        scale = PRESETS[name].advantage_scale
        advantages = group_advantages(rewards[rows], own[1], scale)
        Z = loss_normalizer(*own, name, max_completion_length=40, micro_batches=torch.arange(B)[rows] % 2)
        own_tokens = {key: value[rows] for key, value in given.items()}
        f = response_weights(*own, name, lam, advantages=advantages, **own_tokens)
        penalty = lambda_penalty(*own, name, lam, advantages=advantages)
        return advantages, Z, f, effective_sample_size(mean_weights(f, own[0]), own[1]), penalty

    even = stage_1(torch.arange(B))
    advantages, Z, f, effective, penalty = stage_1(order)
    for ours, theirs in zip(even, (advantages, Z, f), strict=False):
        torch.testing.assert_close(ours[order], theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(even[3:], (effective, penalty), rtol=1e-9, atol=1e-12)


def test_refuses():
    with pytest.raises(ValueError, match="unknown advantage scale 'batchwise'"):
        group_advantages(torch.ones(2), torch.ones(2), "batchwise")
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        group_advantages(torch.ones(2), torch.ones(3))
