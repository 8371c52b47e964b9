"""Any preference with any surrogate: for example λ-GRPO's weights with GSPO's or CISPO's ratio."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo import PRESETS, Objective, policy_loss
from lambda_grpo.objective import (
    CappedWeight,
    Clip,
    GammaWeight,
    GeometricMean,
    LengthBand,
    SoftGate,
    SurrogateInputs,
    TracedClip,
)
from tests.objective import reference
from tests.objective.own_parts import ByEntropy, Undeclared, UndeclaredMean
from tests.objective.strategies import batches, gradients, our_loss

SURROGATES = {
    "token clip": (Clip(), reference.token_clip),
    "sequence clip": (Clip("sequence", 3e-4, 4e-4), lambda b, i, t: reference.sequence_clip(b, i, 3e-4, 4e-4)),
    "recent trace": (TracedClip(), lambda b, i, t: reference.traced_clip(b, i, t, both=False, least=-math.inf)),
    "both trace": (TracedClip("both"), lambda b, i, t: reference.traced_clip(b, i, t, both=True, least=-math.inf)),
    "geometric mean": (GeometricMean(), lambda b, i, t: reference.geometric_mean(b, i)),
    "length band": (LengthBand(), lambda b, i, t: reference.length_band(b, i)),
    "capped weight": (CappedWeight(), reference.capped_weight),
    "soft gate": (SoftGate(), reference.soft_gate),
    "gamma weight": (GammaWeight(), reference.gamma_weight),
}
FORMS = ["lambda_grpo", "lambda_grpo_linear", "lambda_grpo_exp"]


def test_every_surrogate_of_a_preset_is_here():
    assert {type(o.surrogate) for o in PRESETS.values()} == {type(s) for s, _ in SURROGATES.values()}


@pytest.mark.parametrize("kind", SURROGATES)
@settings(max_examples=25)
@given(batches(), st.floats(-9, 9), st.sampled_from(FORMS), st.sampled_from(["batch", "responses", "constant"]))
def test_lambda_on_any_surrogate_is_the_one_formula(kind, batch, lam, form, normalizer):
    """L = − Σ_i f_i Σ_t s_it / Z, its gradient in the policy, and in λ."""
    surrogate, term = SURROGATES[kind]
    objective = replace(PRESETS[form], name="x", surrogate=surrogate, normalizer=normalizer)
    logps = batch["per_token_logps"].clone().requires_grad_()
    batch["per_token_logps"] = logps
    ours_lambda, theirs_lambda = (torch.tensor(lam, dtype=torch.float64, requires_grad=True) for _ in range(2))
    b = reference.Batch.of(batch)
    f = reference.weights(b.lengths, b.group_ids, form, theirs_lambda)
    B = len(b.lengths)
    Z = {"batch": max(sum(b.lengths), 1), "responses": B, "constant": B * reference.LMAX}[normalizer]
    theirs = -sum(f[i] * term(b, i, t) for i in b.responses() for t in b.tokens(i)) / Z
    ours = our_loss(batch, objective, ours_lambda).loss
    assert ours.item() == pytest.approx(torch.as_tensor(theirs).item(), rel=1e-9, abs=1e-11)
    expected = gradients(theirs, logps, theirs_lambda)
    for found, wanted in zip(gradients(ours, logps, ours_lambda), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", SURROGATES)
@given(batches(), st.floats(0.01, 100))
def test_positively_homogeneous_in_the_advantage(kind, batch, factor):
    """What lets a token preference fold into the advantages, so that an engine's own loss stays as it is."""
    surrogate = SURROGATES[kind][0]
    mask = batch["completion_mask"].bool()
    logps = torch.where(mask, batch["per_token_logps"], 0.0)
    log_ratio = logps - torch.where(mask, batch["old_per_token_logps"], 0.0)
    A = batch["advantages"][:, None]
    folded, _ = surrogate(SurrogateInputs(logps, log_ratio, factor * A, mask))
    torch.testing.assert_close(
        folded, factor * surrogate(SurrogateInputs(logps, log_ratio, A, mask))[0], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_a_ratio_that_overflows_leaves_no_nan(kind, advantage, log_ratio):
    """In float32, where e^200 is infinite. PPO's own loss is infinite for A < 0 there, and only there."""
    logps = torch.tensor([[log_ratio, 0.0]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    surrogate, _ = SURROGATES[kind][0](SurrogateInputs(logps, logps, torch.full((1, 1), advantage), mask))
    unbounded = advantage < 0 and log_ratio > 0 and isinstance(SURROGATES[kind][0], (Clip, GeometricMean))
    (grad,) = torch.autograd.grad(surrogate.expand_as(logps).sum(), logps)
    if unbounded:
        assert surrogate.min() == -math.inf
    else:
        assert surrogate.isfinite().all()
        assert grad.isfinite().all()


def test_fspo_stays_finite_where_a_long_response_drifts_a_little():
    """W = e^(100,000 · 0.001) has no float32."""
    logps = torch.full((1, 100_000), 1e-3, requires_grad=True)
    mask = torch.ones(1, 100_000, dtype=torch.bool)
    surrogate, _ = LengthBand()(SurrogateInputs(logps, logps, torch.full((1, 1), -1.0), mask))
    (grad,) = torch.autograd.grad(surrogate.sum(), logps)
    assert surrogate.item() == pytest.approx(-math.exp(20), rel=1e-4)
    assert (grad == 0.0).all()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Clip, {"epsilon": -0.3}), (Clip, {"epsilon_high": math.inf}), (GeometricMean, {"epsilon": 0.0}),
        (CappedWeight, {"cap": -1.0}), (SoftGate, {"tau_pos": 0.0}), (LengthBand, {"c_low": -1.0}),
        (GammaWeight, {"k_neg": math.nan}),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(kind, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be above 0 and finite"):
        kind(**settings)


def test_weights_of_tokens_meet_ratios_of_tokens_only():
    by_token = Objective("by_token", ByEntropy())
    batch = {
        "per_token_logps": torch.zeros(2, 3),
        "old_per_token_logps": torch.zeros(2, 3),
        "advantages": torch.tensor([1.0, -2.0]),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "group_ids": torch.tensor([0, 0]),
        "entropies": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]),
    }
    assert policy_loss(**batch, objective=by_token).loss.item() == pytest.approx(-(6 - 2 * 9) / 5)
    for surrogate in (Clip("sequence"), GeometricMean(), LengthBand()):
        with pytest.raises(ValueError, match="its surrogate has one value a response"):
            replace(by_token, surrogate=surrogate)
    with pytest.raises(ValueError, match="its surrogate has one value a response"):  # one of one's own
        policy_loss(**batch, objective=replace(by_token, surrogate=UndeclaredMean()))
    with pytest.raises(ValueError, match=r"gives \(2, 3\), but it is declared with per_token=False"):
        policy_loss(**batch, objective=replace(by_token, preference=Undeclared()))
