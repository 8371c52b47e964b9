import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import PRESETS, Objective, loss_normalizer, response_weights
from lambda_grpo.objective.preference import H_FLOOR, LambdaSoftmax, positive_part
from tests.objective import reference

LENGTHS = st.lists(st.tuples(st.integers(0, 300), st.integers(-2, 2)), min_size=1, max_size=30)
LAMBDA = PRESETS["lambda_grpo"]


def tensors(rows):
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])


@given(LENGTHS, st.sampled_from(sorted(PRESETS)), st.floats(-10, 10))
def test_weights_equal_the_loop(rows, name, lam):
    lengths, ids = tensors(rows)
    expected = reference.weights(lengths.tolist(), ids.tolist(), name, lam)
    assert response_weights(lengths, ids, name, lam).tolist() == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    # lengths 1 and 3: μ = 2, σ = 1, z = ∓1 (ε aside), h = 8/9 and 10/9; λ = 1: f = 2·softmax(8/9, 10/9)
    f = response_weights(torch.tensor([1, 3]), torch.tensor([4, 4]), "lambda_grpo", 1.0)
    assert f.tolist() == pytest.approx([2 / (1 + math.exp(2 / 9)), 2 / (1 + math.exp(-2 / 9))], rel=1e-6)
    assert response_weights(torch.tensor([1, 3]), torch.tensor([4, 4]), "grpo").tolist() == pytest.approx([2, 2 / 3])


@given(LENGTHS)
def test_lambda_zero_gives_exactly_one(rows):
    lengths, ids = tensors(rows)
    assert (response_weights(lengths, ids, "lambda_grpo", 0.0) == 1.0).all()


@given(LENGTHS, st.floats(-10, 10), st.sampled_from(["grpo", "lambda_grpo"]), st.randoms())
def test_order_of_the_rows_is_irrelevant(rows, lam, name, random):
    lengths, ids = tensors(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = response_weights(lengths[order], ids[order], name, lam)
    assert shuffled.tolist() == pytest.approx(response_weights(lengths, ids, name, lam)[order].tolist(), rel=1e-12)


@given(LENGTHS, st.floats(-9.9, 9.9))
def test_gradient_in_lambda_equals_differences_of_the_loop(rows, lam):
    lengths, ids = tensors(rows)
    upstream = torch.linspace(-1, 1, len(rows), dtype=torch.float64)
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad((upstream * response_weights(lengths, ids, "lambda_grpo", lambda_)).sum(), lambda_)

    def value(x):
        weights = reference.weights(lengths.tolist(), ids.tolist(), "lambda_grpo", x)
        return sum(u * f for u, f in zip(upstream.tolist(), weights, strict=True))

    step = 1e-5
    assert grad.item() == pytest.approx((value(lam + step) - value(lam - step)) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 81, 82, 256, 4096])
@pytest.mark.parametrize("lam", [-10.0, -1.0, 0.5, 10.0])
def test_finite_positive_and_ordered_at_the_edges(size, lam):
    """One response far longer than the others is the worst case for h: |z| = √(G−1)."""
    for lengths in (torch.ones(size), torch.arange(size) + 1, torch.where(torch.arange(size) == 0, 1, 100_000)):
        lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
        f = response_weights(lengths, torch.zeros(size, dtype=torch.long), LAMBDA, lambda_)
        (grad,) = torch.autograd.grad((f * torch.linspace(-1, 1, size).double()).sum(), lambda_)
        assert f.isfinite().all()
        assert (f >= 0).all()
        assert grad.isfinite()
        assert f.sum().item() == pytest.approx(size)
        by_length = f.detach()[lengths.argsort()]
        assert (by_length.diff() * math.copysign(1, lam) >= -1e-12).all()


def test_h_is_untouched_up_to_81_responses_and_smooth_below():
    worst = 1 - math.sqrt(80) / 9
    assert worst > H_FLOOR
    assert positive_part(torch.tensor(worst, dtype=torch.float64)).item() == worst
    h = torch.tensor([-1e6, -1.0, 0.0, H_FLOOR - 1e-9, H_FLOOR, 1.0], dtype=torch.float64, requires_grad=True)
    out = positive_part(h)
    (slope,) = torch.autograd.grad(out.sum(), h)
    assert (out > 0).all()
    assert (out.diff() > 0).all()
    assert (slope > 0).all()
    assert slope[-3:].tolist() == pytest.approx([1, 1, 1], rel=1e-5)  # no kink at the joint


def test_overflow_of_the_power_is_capped_with_a_gradient_to_match():
    lambda_ = torch.tensor(5000.0, dtype=torch.float64, requires_grad=True)
    f = response_weights(torch.tensor([1, 2, 9]), torch.zeros(3, dtype=torch.long), "lambda_grpo", lambda_)
    (grad,) = torch.autograd.grad(f[2], lambda_)
    assert f.isfinite().all()
    assert grad.item() == 0.0


@given(LENGTHS, st.floats(-10, 10))
def test_weight_norm_tokens_keeps_the_tokens_of_each_group(rows, lam):
    lengths, ids = tensors(rows)
    objective = Objective("x", LambdaSoftmax(), learnable=True, weight_norm="tokens")
    f = response_weights(lengths, ids, objective, lam)
    for members in reference.groups(ids.tolist()):
        assert (f * lengths)[members].sum().item() == pytest.approx(lengths[members].sum().item(), rel=1e-9)


@given(LENGTHS)
def test_normalizers_equal_the_loop(rows):
    lengths, ids = tensors(rows)
    counts = lengths // 2  # as if truncation masking had emptied some
    parts = reference.groups(ids.tolist())
    batch = loss_normalizer(lengths, ids, "dapo", tokens=counts)
    assert batch.tolist() == [max(sum(counts.tolist()), 1)] * len(rows)
    constant = loss_normalizer(lengths, ids, "dr_grpo", max_completion_length=512)
    assert constant.tolist() == [len(rows) * 512] * len(rows)
    group = loss_normalizer(lengths, ids, "lambda_grpo_paper", tokens=counts)
    for members in parts:
        for i in members:
            assert group[i] == max(len(parts) * sum(lengths[members].tolist()), 1)


def test_what_an_objective_needs_is_named():
    lengths, ids = torch.tensor([2, 3]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="needs max_completion_length"):
        loss_normalizer(lengths, ids, "dr_grpo")
    objective = Objective("by_entropy", lambda groups, _: groups.entropies.double().mean(1), needs=("entropies",))
    with pytest.raises(ValueError, match="needs entropies"):
        response_weights(lengths, ids, objective)
    entropies = torch.tensor([[1.0, 3.0], [0.5, 0.5]])
    assert response_weights(lengths, ids, objective, entropies=entropies).tolist() == [2.0, 0.5]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="unknown objective 'grop': use one of grpo, dapo"):
        response_weights(torch.ones(2), torch.zeros(2), "grop")
    with pytest.raises(ValueError, match="normalizer is 'tokens'"):
        Objective("x", LambdaSoftmax(), normalizer="tokens")
    with pytest.raises(ValueError, match="r must be positive"):
        LambdaSoftmax(r=0.0)
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        response_weights(torch.ones(2, 1), torch.zeros(2, 1), "grpo")
