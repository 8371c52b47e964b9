"""Each preset against its paper's own formula, in plain loops: the loss, and the gradients of policy and λ."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lambda_grpo import PRESETS
from tests.objective import reference
from tests.objective.strategies import LAMBDAS, batches, gradients, our_loss, prepared

STOP_GRADIENT = {"cispo", "vespo"}  # their loss isn't the integral of their gradient


def test_every_preset_has_a_reference():
    assert reference.METHODS.keys() == PRESETS.keys()
    scales = {name: objective.advantage_scale for name, objective in PRESETS.items()}
    assert scales == {name: reference.ADVANTAGE_SCALES.get(name, "group") for name in PRESETS}


@pytest.mark.parametrize("name", sorted(PRESETS))
@settings(max_examples=30)
@given(batches(), LAMBDAS, st.sampled_from([0.0, 0.04]), st.booleans())
def test_loss_and_gradients_equal_the_papers_loops(name, batch, lam, beta, truncate):
    """Gradients of policy and λ are the paper's formula's own, stop-gradients where it has them."""
    batch = prepared(batch, name)
    lengths = batch["completion_mask"].sum(1)
    if truncate:  # the first response is masked, as mask_truncated_completions does: its length still counts
        batch["completion_mask"] = batch["completion_mask"].clone()
        batch["completion_mask"][0] = 0
    logps = batch["per_token_logps"].clone().requires_grad_()
    batch["per_token_logps"] = logps
    theirs_lambda, ours_lambda = (torch.tensor(lam, dtype=torch.float64, requires_grad=True) for _ in range(2))
    theirs = reference.loss(reference.Batch.of(batch, lengths), name, theirs_lambda, beta)
    ours = our_loss(batch, name, ours_lambda, beta=beta, lengths=lengths).loss
    assert ours.item() == pytest.approx(torch.as_tensor(theirs).item(), rel=1e-9, abs=1e-11)
    expected, expected_lambda = gradients(theirs, logps, theirs_lambda)
    policy_grad, lambda_grad = gradients(ours, logps, ours_lambda)
    torch.testing.assert_close(policy_grad, expected, rtol=1e-8, atol=1e-12)
    assert lambda_grad.item() == pytest.approx(expected_lambda.item(), rel=1e-8, abs=1e-11)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - STOP_GRADIENT))
@settings(max_examples=15)
@given(batches(max_groups=3, max_size=4, max_tokens=5), LAMBDAS)
def test_gradcheck(name, batch, lam):
    batch = prepared(batch, name)
    assume(not near_a_kink(batch, name))
    logps = batch["per_token_logps"].clone().requires_grad_()
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=PRESETS[name].preference.learnable)
    assert torch.autograd.gradcheck(
        lambda x, y: our_loss({**batch, "per_token_logps": x}, name, y, beta=0.04).loss, (logps, lambda_)
    )


def near_a_kink(batch, name, margin=1e-5):
    """Whether a small step of every log-ratio moves one across the edge of a clip, where there is no derivative."""
    shares = [
        our_loss({**batch, "per_token_logps": batch["per_token_logps"] + shift}, name, 0.0).metrics["clip_ratio"]
        for shift in (-margin, margin)
    ]
    return shares[0] != shares[1]


@given(batches(), st.sampled_from(sorted(STOP_GRADIENT)))
def test_stop_gradient_methods_have_the_papers_gradient(batch, name):
    """∇ log π_it is multiplied by −A · weight / N, the weight being min(ρ, 5) or W^k e^(c(1 − W))."""
    logps = batch["per_token_logps"].clone().requires_grad_()
    (grad,) = gradients(our_loss({**batch, "per_token_logps": logps}, name, 0.0).loss, logps)
    log_ratio = (batch["per_token_logps"] - batch["old_per_token_logps"]).tolist()
    mask = batch["completion_mask"].tolist()
    count = max(sum(map(sum, mask)), 1)
    for i, A in enumerate(batch["advantages"].tolist()):
        W = math.exp(sum(r for r, m in zip(log_ratio[i], mask[i], strict=True) if m))
        k, c = (2, 3) if A >= 0 else (3, 2)
        for t, m in enumerate(mask[i]):
            weight = min(math.exp(log_ratio[i][t]), 5.0) if name == "cispo" else W**k * math.exp(c * (1 - W))
            assert grad[i, t].item() == pytest.approx(-A * weight / count * m, rel=1e-9, abs=1e-15)
