import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lambda_grpo import PRESETS, Objective, implied_lambda, response_weights
from tests.objective import reference
from tests.objective.own_parts import ByEntropy

GROUPS = st.lists(
    st.lists(st.integers(0, 300), min_size=2, max_size=8).filter(lambda g: len({n for n in g if n}) > 1),
    min_size=1,
    max_size=3,
)


def tensors(groups):
    return torch.tensor([n for g in groups for n in g]), torch.tensor([k for k, g in enumerate(groups) for _ in g])


def divergence(lengths, ids, method, lam):
    """Mean over groups of KL(method ‖ λ), in loops, over the responses that have tokens."""
    p = [float(f) for f in reference.weights(lengths, ids, method, 0.0)]
    q = [float(f) for f in reference.weights(lengths, ids, "lambda_grpo", lam)]
    total, parts = 0.0, reference.groups(ids)
    for members in parts:
        own = [i for i in members if lengths[i]]
        P, Q = sum(p[i] for i in own), sum(q[i] for i in own)
        total += sum(p[i] / P * math.log(p[i] / P / max(q[i] / Q, 1e-300)) for i in own)
    return total / len(parts)


@settings(max_examples=20)
@given(GROUPS)
def test_no_other_lambda_is_nearer_to_grpo(groups):
    lengths, ids = tensors(groups)
    found = implied_lambda(lengths, ids, "grpo")
    assert -10 <= found <= 10
    least = divergence(lengths.tolist(), ids.tolist(), "grpo", found)
    for lam in torch.linspace(-10, 10, 81).tolist():
        assert least <= divergence(lengths.tolist(), ids.tolist(), "grpo", lam) + 1e-9


@given(GROUPS, st.floats(-9.9, 9.9))
def test_lambda_grpo_implies_its_own_lambda(groups, lam):
    lengths, ids = tensors(groups)
    f = response_weights(lengths, ids, "lambda_grpo", lam)
    shift = response_weights(lengths, ids, "lambda_grpo", lam + 1e-4) - f
    assume(shift[lengths > 0].abs().max() > 1e-7)  # saturated weights don't tell one λ from the next
    assert implied_lambda(lengths, ids, "lambda_grpo", lam) == pytest.approx(lam, abs=1e-2)


@settings(max_examples=10)
@given(GROUPS, st.sampled_from(sorted(PRESETS)))
def test_token_means_imply_zero_and_response_means_what_grpo_does(groups, name):
    lengths, ids = tensors(groups)
    advantages = torch.where(torch.arange(len(ids)) % 2 == 0, 1.0, -1.0)
    entropies = torch.ones(len(ids), max(lengths.tolist()))  # all alike: EDGE's part is 1
    found = implied_lambda(
        lengths, ids, name, advantages=advantages, entropies=entropies, completion_ids=torch.zeros_like(entropies)
    )
    if name in ("lambda_grpo_prm", "grpo_lambda_tail"):  # they weigh tokens
        assert found is None
    elif name in (*reference.RESPONSE_MEANS, "edge_grpo"):
        assert found == implied_lambda(lengths, ids, "grpo")
    elif name not in ("delta_l", "balanced"):
        assert found == pytest.approx(0.0, abs=1e-4)


def test_by_hand():
    """Two responses: h = 8/9 and 10/9, and GRPO's weights are as 3 to 1, so h₁^λ − h₂^λ = ln 3."""
    found = implied_lambda(torch.tensor([1, 3]), torch.tensor([0, 0]), "grpo")
    assert (8 / 9) ** found - (10 / 9) ** found == pytest.approx(math.log(3), abs=1e-4)
    assert -6 < found < -4
    assert implied_lambda(torch.tensor([1, 3]), torch.tensor([0, 0]), "grpo", bounds=(-2.0, 2.0)) == -2.0


def test_delta_l_lies_between_grpo_and_dapo():
    lengths, ids = torch.tensor([10, 20, 30, 40]), torch.zeros(4)
    assert implied_lambda(lengths, ids, "grpo") < implied_lambda(lengths, ids, "delta_l") < 0


def test_none_where_it_has_no_meaning():
    ids = torch.tensor([0, 0, 1, 1])
    assert implied_lambda(torch.tensor([5, 5, 2, 2]), ids, "grpo") is None  # every λ weighs equal lengths alike
    assert implied_lambda(torch.tensor([0, 5, 0, 0]), ids, "grpo") is None
    by_token = Objective("by_token", ByEntropy())
    assert implied_lambda(torch.tensor([1, 5, 2, 2]), ids, by_token, entropies=torch.ones(4, 5)) is None
    with pytest.raises(ValueError, match="bounds of λ must be two numbers in order"):
        implied_lambda(torch.tensor([1, 2, 3, 4]), ids, "grpo", bounds=(1.0, -1.0))
