"""The path of λ, and what is computed of many steps at once, against plain loops over steps with the public API."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from lambda_grpo import PRESETS, LambdaState, Objective, group_advantages, policy_loss, response_weights
from lambda_grpo.inspection import replay as module
from lambda_grpo.inspection.part import Part
from lambda_grpo.inspection.replay import replay
from lambda_grpo.inspection.samples import Samples
from lambda_grpo.inspection.weights import weights
from lambda_grpo.objective.preferences import LambdaSoftmax

LEARNABLE = [name for name, objective in PRESETS.items() if objective.preference.learnable]


def samples(steps, seed=0, size=8, longest=30, uneven=False):
    """One to six groups a step, some without a signal, with empty and unscored responses among them."""
    draw = np.random.default_rng(seed)
    groups = draw.integers(1, 7, steps)
    sizes = draw.integers(1, 2 * size, groups.sum()) if uneven else np.full(groups.sum(), size)
    length = draw.integers(0, longest, sizes.sum()).astype(float)
    odds = np.repeat(draw.normal(0, 2, len(sizes)), sizes) + 2 * (length / longest - 0.5)
    reward = (draw.random(len(length)) < 1 / (1 + np.exp(-odds))).astype(float)
    reward[draw.random(len(reward)) < 0.03] = np.nan
    group_start = np.concatenate([[0], np.cumsum(sizes)])
    step_start = group_start[np.concatenate([[0], np.cumsum(groups)])]
    return Samples(length, reward, group_start, step_start, np.arange(steps))


def batches(part, scale="group"):
    """(lengths, ids, advantages) of each step."""
    for rows in part.rows():
        yield part.lengths[rows], part.ids[rows], group_advantages(part.rewards[rows], part.ids[rows], scale)


def gradient(objective, value, lengths, ids, advantages):
    """dL/dλ of the loss itself, on policy."""
    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(int(lengths.max()) + 1) < lengths[:, None]
    logps = torch.zeros(mask.shape, dtype=torch.float64)
    loss = policy_loss(logps, logps, advantages, mask, ids, objective, leaf).loss
    return torch.autograd.grad(loss, leaf)[0].tolist()


@pytest.mark.parametrize("rounds", [2, 8])  # 2 are too few for most steps: they are then taken in smaller portions
@pytest.mark.parametrize("lr", [0.1, 2.0])
@pytest.mark.parametrize("name", LEARNABLE)
def test_the_path_is_that_of_a_loop(name, lr, rounds, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", rounds)
    objective, part = PRESETS[name], Part(samples(60), 0, 30)
    learned = replay(objective, lr, (8, 8))
    state = LambdaState(learned.value, lr, bounds=objective.preference.lambda_bounds)
    f, path = learned.advance(part)
    for number, (rows, batch) in enumerate(zip(part.rows(), batches(part), strict=True)):
        assert path[number].tolist() == pytest.approx(state.value, abs=1e-10)
        expected = response_weights(*batch[:2], objective, state.leaf(), advantages=batch[2])
        assert f[rows].tolist() == pytest.approx(expected.tolist(), rel=1e-9)
        state.step(gradient(objective, state.value, *batch))
    assert learned.value == pytest.approx(state.value, abs=1e-10)


@pytest.mark.parametrize("name", LEARNABLE)
def test_each_step_follows_from_the_last_however_wild_they_are(name):
    """λ jumps between its bounds: no two loops agree on the path for long, but each step must be the gradient's."""
    objective, part = PRESETS[name], Part(samples(40, seed=1), 0, 30)
    low, high = objective.preference.lambda_bounds
    learned = replay(objective, 300.0, (8, 8))
    _, path = learned.advance(part)
    following = np.concatenate([path[1:], [learned.value]])
    for value, after, batch in zip(path.tolist(), following, batches(part), strict=True):
        step = np.array(value) - 300 * np.array(gradient(objective, value, *batch))
        assert np.clip(step, low, high) == pytest.approx(after, abs=1e-8)
    assert np.abs(np.diff(path, axis=0)).max() > 1  # it did jump


@pytest.mark.parametrize("name", [name for name in LEARNABLE if name != "daro"])
def test_parts_and_pieces_continue_the_path(name, monkeypatch):
    whole = samples(30, uneven=True)
    together, apart = (replay(PRESETS[name], 1.0, (1, 15)) for _ in range(2))
    f, path = together.advance(Part(whole, 0, 30))
    monkeypatch.setattr("lambda_grpo.inspection.part.ROWS", 20)  # a step is computed in several pieces
    found = [apart.advance(Part(whole.part(first, first + 10), first, 30)) for first in (0, 10, 20)]
    assert torch.cat([one for one, _ in found]).tolist() == pytest.approx(f.tolist(), rel=1e-9)
    assert np.concatenate([one for _, one in found]) == pytest.approx(path, abs=1e-10)


@dataclass(frozen=True)
class Own(LambdaSoftmax):
    """Somebody's preference, which takes λ as a number only."""

    def __call__(self, groups, lambda_):
        assert lambda_.dim() == 0
        return super().__call__(groups, lambda_)


def test_an_own_preference_is_replayed_step_by_step():
    part = Part(samples(12), 0, 30)
    found = [replay(replace(PRESETS["lambda_grpo"], preference=one), 1.0, (8, 8)) for one in (Own(), LambdaSoftmax())]
    (f, path), (same_f, same_path) = (one.advance(part) for one in found)
    assert path == pytest.approx(same_path, abs=1e-10)
    assert f.tolist() == pytest.approx(same_f.tolist(), rel=1e-9)


def test_daro_needs_groups_of_one_size():
    assert replay(PRESETS["daro"], 0.1, (7, 8)) is None


@pytest.mark.parametrize("name", ["grpo", "delta_l", "balanced", "daro", "lite_ppo", "grpo_lambda"])
def test_many_steps_at_once_are_those_steps(name):
    objective: Objective = PRESETS[name]
    part = Part(samples(20, uneven=True), 0, 30)
    each = list(batches(part, objective.advantage_scale))
    advantages = torch.cat([one for _, _, one in each])
    least = -torch.inf if objective.advantage_min is None else objective.advantage_min
    assert part.advantages(objective).tolist() == pytest.approx(advantages.clamp(min=least).tolist(), abs=1e-12)
    f = torch.cat([response_weights(lengths, ids, objective, advantages=one) for lengths, ids, one in each])
    assert weights(part, objective).tolist() == pytest.approx(f.tolist(), rel=1e-12)
