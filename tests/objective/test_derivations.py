"""What docs/objective.md derives, checked on random batches and on toy cases that can be computed by hand."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lambda_grpo import PRESETS, effective_sample_size, implied_lambda, policy_loss, response_weights
from lambda_grpo.objective.groups import Groups
from lambda_grpo.objective.surrogates import Clip
from tests.objective import reference
from tests.objective.strategies import batches, our_loss

LAMBDAS = st.floats(-9, 9)


def one_group(lengths):
    return torch.tensor(lengths), torch.zeros(len(lengths), dtype=torch.long)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=100))
def test_z_is_at_most_the_root_of_g_minus_one(lengths):
    z = Groups.of(*one_group(lengths)).standardised_length
    assert z.abs().max() <= math.sqrt(len(lengths) - 1) + 1e-9


@pytest.mark.parametrize("size", [2, 8, 81, 82, 256])
def test_one_short_response_reaches_that_bound_and_h_is_positive_up_to_81(size):
    z = Groups.of(*one_group([1] + [10_000] * (size - 1))).standardised_length
    assert z.min().item() == pytest.approx(-math.sqrt(size - 1), rel=1e-6)
    h = (1 + z.min() / 9).item()
    assert h > 0.006 if size <= 81 else h < 1e-6  # 0 at 82, but for the ε beside σ


@given(batches(), st.floats(-9, 9), st.sampled_from(["token", "sequence"]))
def test_a_preference_folds_into_the_advantages(batch, lam, level):
    """f · min(ρA, clip(ρ)A) = min(ρ · fA, clip(ρ) · fA) for f > 0: an engine's own loss can stay as it is."""
    objective = replace(PRESETS["lambda_grpo"], surrogate=Clip(level))
    plain = replace(PRESETS["dapo"], surrogate=Clip(level))
    f = response_weights(batch["completion_mask"].sum(1), batch["group_ids"], objective, lam)
    folded = our_loss({**batch, "advantages": batch["advantages"] * f}, plain, 0.0).loss.item()
    assert folded == pytest.approx(our_loss(batch, objective, lam).loss.item(), rel=1e-9, abs=1e-12)


@given(batches(), LAMBDAS, st.sampled_from([Clip(), PRESETS["gspo"].surrogate, PRESETS["sapo"].surrogate]))
def test_two_calls_of_any_loss_give_the_gradient_of_lambda(batch, lam, surrogate):
    """With d = ∂ ln f/∂λ and Â = fA:  dL/dλ = L(Â·relu(d)) − L(Â·relu(−d)), where L is the loss without f."""
    lengths, ids = batch["completion_mask"].sum(1), batch["group_ids"]
    objective = replace(PRESETS["lambda_grpo"], surrogate=surrogate)
    plain = replace(PRESETS["dapo"], surrogate=surrogate)
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(our_loss(batch, objective, lambda_).loss, lambda_)
    f = response_weights(lengths, ids, objective, lam)
    d = torch.autograd.functional.jacobian(lambda x: response_weights(lengths, ids, objective, x), lambda_) / f
    losses = [
        our_loss({**batch, "advantages": batch["advantages"] * f * (sign * d).relu()}, plain, 0.0).loss
        for sign in (1, -1)
    ]
    assert (losses[0] - losses[1]).item() == pytest.approx(exact.item(), rel=1e-8, abs=1e-11)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(-2, 2)), min_size=2, max_size=12), LAMBDAS)
def test_on_policy_lambda_follows_a_covariance(rows, lam):
    """dJ/dλ = G/Σ|o| · Cov_p(g ln h, A|o|) under p = softmax(g), g = h^λ: one group, ρ = 1."""
    lengths, ids = one_group([length for length, _ in rows])
    advantages = torch.tensor([A for _, A in rows], dtype=torch.float64)
    logps = torch.zeros(len(rows), 50, dtype=torch.float64)
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(50) < lengths[:, None]
    loss = policy_loss(logps, logps, advantages, mask, ids, "lambda_grpo", lambda_).loss
    (grad,) = torch.autograd.grad(loss, lambda_)

    G, mu = len(rows), sum(length for length, _ in rows) / len(rows)
    sigma = math.sqrt(sum((length - mu) ** 2 for length, _ in rows) / G)
    h = [1 + (length - mu) / (sigma + 1e-6) / 9 for length, _ in rows]
    g = [x**lam for x in h]
    p = [math.exp(x - max(g)) for x in g]
    p = [x / sum(p) for x in p]
    left = [x * math.log(y) for x, y in zip(g, h, strict=True)]
    right = [A * length for length, A in rows]

    def mean(values):
        return sum(w * v for w, v in zip(p, values, strict=True))

    covariance = mean([a * b for a, b in zip(left, right, strict=True)]) - mean(left) * mean(right)
    assert -grad.item() == pytest.approx(G / sum(lengths.tolist()) * covariance, rel=1e-7, abs=1e-10)


def test_the_surrogate_rises_with_lambda_without_end_where_the_long_answer_is_right():
    """No finite optimum: λ drifts until the softmax saturates, or meets its bound."""
    lengths, ids = one_group([10, 40])
    logps = torch.zeros(2, 40, dtype=torch.float64)
    mask = torch.arange(40) < lengths[:, None]
    A = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    values = [-policy_loss(logps, logps, A, mask, ids, "lambda_grpo", lam).loss.item() for lam in range(-20, 21)]
    assert all(later > earlier for earlier, later in pairwise(values))


@pytest.mark.parametrize(
    ("size", "lam", "effective"), [(8, 5, 5.63), (8, 10, 1.71), (8, 20, 1.0), (64, 5, 44.56), (64, 10, 10.1)]
)
def test_where_the_softmax_saturates_for_evenly_spread_lengths(size, lam, effective):
    lengths, ids = one_group(list(range(1, size + 1)))
    f = response_weights(lengths, ids, "lambda_grpo", float(lam))
    assert effective_sample_size(f, ids).item() == pytest.approx(effective, rel=0.01)


def test_the_paper_form_moves_the_learning_rate_and_weight_norm_tokens_does_not():
    """Σ f|o| / Σ|o| is what an optimiser step is scaled by."""
    lengths, ids = one_group([100, 200, 300, 400, 500, 600, 700, 800])
    found = {}
    for norm in ("sum", "tokens"):
        objective = replace(PRESETS["lambda_grpo"], weight_norm=norm)
        found[norm] = [
            ((response_weights(lengths, ids, objective, lam) * lengths).sum() / lengths.sum()).item()
            for lam in (-10.0, 0.0, 10.0)
        ]
    assert found["sum"] == pytest.approx([0.26, 1.0, 1.67], abs=0.01)
    assert found["tokens"] == pytest.approx([1.0, 1.0, 1.0])


@given(st.lists(st.integers(1, 300), min_size=3, max_size=8))
def test_no_lambda_is_grpo(lengths):
    """GRPO's μ/|o| is approximated: with three lengths or more its weights aren't of λ's form."""
    assume(len(set(lengths)) == len(lengths) and max(lengths) > 2 * min(lengths))
    lengths, ids = one_group(lengths)
    found = implied_lambda(lengths, ids, "grpo")
    q = response_weights(lengths, ids, "lambda_grpo", found)
    f = [float(f) for f in reference.weights(lengths.tolist(), ids.tolist(), "grpo", 0.0)]
    p = torch.tensor(f, dtype=torch.float64)
    p, q = p / p.sum(), q / q.sum()
    assert (p * (p / q).log()).sum().item() > 0
    assert (p - q).abs().max() > 1e-6
