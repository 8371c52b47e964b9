import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lambda_grpo import (
    PRESETS,
    Objective,
    effective_sample_size,
    lambda_penalty,
    loss_normalizer,
    response_weights,
)
from lambda_grpo.objective import is_saturated
from lambda_grpo.objective.preferences import H_FLOOR, LambdaExp, LambdaLinear, LambdaSoftmax, positive_part
from lambda_grpo.objective.surrogates import Clip
from tests.objective import reference
from tests.objective.own_parts import ByMeanEntropy

LENGTHS = st.lists(st.tuples(st.integers(0, 300), st.integers(-2, 2)), min_size=1, max_size=30)
LAMBDA = PRESETS["lambda_grpo"]
LAMBDA_FORMS = ["lambda_grpo", "lambda_grpo_linear", "lambda_grpo_exp"]


def tensors(rows):
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])


@given(LENGTHS, st.sampled_from(["grpo", "dapo", *LAMBDA_FORMS]), st.floats(-10, 10))
def test_weights_equal_the_loop(rows, name, lam):
    lengths, ids = tensors(rows)
    expected = [float(f) for f in reference.weights(lengths.tolist(), ids.tolist(), name, lam)]
    assert response_weights(lengths, ids, name, lam).tolist() == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    # lengths 1 and 3: μ = 2, σ = 1, z = ∓1 (ε aside), h = 8/9 and 10/9; λ = 1: f = 2·softmax(8/9, 10/9)
    f = response_weights(torch.tensor([1, 3]), torch.tensor([4, 4]), "lambda_grpo", 1.0)
    assert f.tolist() == pytest.approx([2 / (1 + math.exp(2 / 9)), 2 / (1 + math.exp(-2 / 9))], rel=1e-6)
    assert response_weights(torch.tensor([1, 3]), torch.tensor([4, 4]), "grpo").tolist() == pytest.approx([2, 2 / 3])


@given(LENGTHS, st.sampled_from(LAMBDA_FORMS))
def test_lambda_zero_gives_exactly_one(rows, name):
    lengths, ids = tensors(rows)
    assert (response_weights(lengths, ids, name, 0.0) == 1.0).all()


@given(LENGTHS, st.floats(-10, 10), st.sampled_from(["grpo", "lambda_grpo"]), st.randoms())
def test_order_of_the_rows_is_irrelevant(rows, lam, name, random):
    lengths, ids = tensors(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = response_weights(lengths[order], ids[order], name, lam)
    assert shuffled.tolist() == pytest.approx(response_weights(lengths, ids, name, lam)[order].tolist(), rel=1e-12)


@given(LENGTHS, st.floats(-9.9, 9.9), st.sampled_from(LAMBDA_FORMS))
def test_gradient_in_lambda_equals_differences_of_the_loop(rows, lam, name):
    lengths, ids = tensors(rows)
    upstream = torch.linspace(-1, 1, len(rows), dtype=torch.float64)
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad((upstream * response_weights(lengths, ids, name, lambda_)).sum(), lambda_)

    def value(x):
        weights = reference.weights(lengths.tolist(), ids.tolist(), name, x)
        return sum(u * float(f) for u, f in zip(upstream.tolist(), weights, strict=True))

    step = 1e-5
    slopes = [(value(lam + s) - value(lam)) / s for s in (step, -step)]
    assume(abs(slopes[0] - slopes[1]) < 1e-3)  # the linear form has a kink where it is held above 0
    assert grad.item() == pytest.approx(sum(slopes) / 2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 81, 82, 256, 4096])
@pytest.mark.parametrize("lam", [-10.0, -1.0, 0.5, 10.0])
@pytest.mark.parametrize("name", LAMBDA_FORMS)
def test_finite_positive_and_ordered_at_the_edges(name, size, lam):
    """One response far longer than the others is the worst case for h: |z| = √(G−1)."""
    for lengths in (torch.ones(size), torch.arange(size) + 1, torch.where(torch.arange(size) == 0, 1, 100_000)):
        lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
        f = response_weights(lengths, torch.zeros(size, dtype=torch.long), name, lambda_)
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
    objective = Objective("x", LambdaSoftmax(), weight_norm="tokens")
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
    with pytest.raises(ValueError, match="'bnpo' needs micro_batches"):
        loss_normalizer(lengths, ids, "bnpo")
    for name in ("balanced", "daro"):
        with pytest.raises(ValueError, match=f"'{name}' needs advantages"):
            response_weights(lengths, ids, name)
    objective = Objective("by_entropy", ByMeanEntropy())
    with pytest.raises(ValueError, match="needs entropies"):
        response_weights(lengths, ids, objective)
    entropies = torch.tensor([[1.0, 3.0], [0.5, 0.5]])
    assert response_weights(lengths, ids, objective, entropies=entropies).tolist() == [2.0, 0.5]


def test_effective_sample_size_by_hand():
    ids = torch.tensor([7, 7, 3, 3, 3, 3])
    found = effective_sample_size(torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0, 1.0]), ids)
    assert found.tolist() == [4.0, 1.0]  # of group 3, then of group 7
    weights = response_weights(torch.tensor([1, 9, 1, 2, 3, 4]), ids, "lambda_grpo", -10.0)
    assert effective_sample_size(weights, ids)[0].item() == pytest.approx(
        sum(weights[2:].tolist()) ** 2 / sum(w * w for w in weights[2:].tolist())
    )


def test_saturation_by_hand():
    lengths, ids = torch.tensor([1, 2, 1, 2, 5, 5]), torch.tensor([0, 0, 1, 1, 2, 2])
    even, one_hot = [1.0, 1.0], [1.9, 0.1]
    for first, second, expected in ((even, even, False), (one_hot, even, True), (one_hot, one_hot, True)):
        # the third group's lengths are equal: no λ can saturate it
        assert is_saturated(torch.tensor([*first, *second, 1.0, 1.0]), lengths, ids) is expected
    assert not is_saturated(torch.ones(2), torch.tensor([5, 5]), torch.tensor([0, 0]))


def test_fixed_weights_by_hand():
    lengths, ids = torch.tensor([1, 4, 16, 0]), torch.zeros(4, dtype=torch.long)
    # |o|^−3/4 is 1, 0.354, 0.125, over a mean of 1.479/4
    f = response_weights(lengths, ids, "delta_l")
    assert f.tolist() == pytest.approx([4 / (1 + 4**-0.75 + 0.125) * p for p in (1, 4**-0.75, 0.125)] + [1])
    # two right answers of 20 tokens, one wrong one of 1, in a group of 4 with 21 tokens
    f = response_weights(lengths, ids, "balanced", advantages=torch.tensor([-1.0, 0.5, 0.5, 0.0]))
    assert f.tolist() == pytest.approx([1 / 4 * 21 / 1, 2 / 4 * 21 / 20, 2 / 4 * 21 / 20, 1])


def test_daro_by_hand():
    # two groups of three: one right answer (6 tokens in all), two right answers (12 tokens)
    lengths, ids = torch.tensor([1, 2, 3, 4, 4, 4]), torch.tensor([0, 0, 0, 1, 1, 1])
    advantages = torch.tensor([1.0, -0.5, -0.5, 0.5, 0.5, -1.0])
    lambda_ = torch.tensor([math.log(2), math.log(3)], dtype=torch.float64, requires_grad=True)
    f = response_weights(lengths, ids, "daro", lambda_, advantages=advantages)
    per_token = f / loss_normalizer(lengths, ids, "daro")
    assert per_token.tolist() == pytest.approx([2 / 6] * 3 + [3 / 12] * 3)
    penalty = lambda_penalty(lengths, ids, "daro", lambda_, advantages=advantages)
    assert penalty.item() == pytest.approx(-math.log(2) - math.log(3))
    assert torch.autograd.grad(penalty, lambda_)[0].tolist() == pytest.approx([-1, -1])
    assert lambda_penalty(lengths, ids, "dapo", 3.0).item() == 0.0
    with pytest.raises(ValueError, match="λ holds 3 values, one for each pass rate of groups of 4"):
        response_weights(lengths, ids, "daro", torch.zeros(3), advantages=advantages)


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match=r"""unknown objective 'grop' \(did you mean "grpo"\?\): use one of grpo, dapo"""
    ):
        response_weights(torch.ones(2), torch.zeros(2), "grop")
    with pytest.raises(ValueError, match="normalizer is 'tokens'"):
        Objective("x", LambdaSoftmax(), normalizer="tokens")
    for form in (LambdaSoftmax, LambdaExp, LambdaLinear):
        with pytest.raises(ValueError, match="r must be positive"):
            form(r=0.0)
    with pytest.raises(ValueError, match="a learned preference can't weigh the KL term"):
        replace(LAMBDA, kl_weighted=True)
    with pytest.raises(ValueError, match="nothing would be left of it"):
        replace(PRESETS["daro"], weight_norm="tokens")
    with pytest.raises(ValueError, match="level of a ratio is 'response'"):
        Clip("response")
    with pytest.raises(ValueError, match=r"completion_ids must have shape \(2, 3\), got \(3, 3\)"):
        response_weights(torch.ones(2), torch.zeros(2), "lambda_grpo_prm", completion_ids=torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"token_mask must have shape \(2, 3\), got \(2, 4\)"):
        response_weights(
            torch.ones(2), torch.zeros(2), "edge_grpo", entropies=torch.ones(2, 3), token_mask=torch.ones(2, 4)
        )
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        response_weights(torch.ones(2, 1), torch.zeros(2, 1), "grpo")
