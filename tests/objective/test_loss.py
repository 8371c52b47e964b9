import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import PRESETS, Objective, loss_normalizer, policy_loss, response_weights
from tests.objective import reference
from tests.objective.strategies import batches

NAMES = st.sampled_from(sorted(PRESETS))
LAMBDAS = st.floats(-9, 9)
LMAX = 16


def reference_loss(batch, name, lam, *, logps=None, lengths=None, beta=0.0):
    return reference.loss(
        (batch["per_token_logps"] if logps is None else logps).tolist(),
        batch["old_per_token_logps"].tolist(),
        batch["advantages"].tolist(),
        batch["completion_mask"].tolist(),
        batch["group_ids"].tolist(),
        name,
        lam,
        0.2,
        0.28,
        lengths=None if lengths is None else lengths.tolist(),
        max_length=LMAX,
        ref=batch["ref_per_token_logps"].tolist(),
        beta=beta,
    )


def our_loss(batch, name, lam, **settings):
    settings = {"epsilon_high": 0.28, "max_completion_length": LMAX, **settings}
    return policy_loss(**batch, objective=name, lambda_=lam, **settings)


@given(batches(), NAMES, LAMBDAS, st.sampled_from([0.0, 0.04]))
def test_loss_equals_the_papers_loops(batch, name, lam, beta):
    ours = our_loss(batch, name, lam, beta=beta).loss.item()
    assert ours == pytest.approx(reference_loss(batch, name, lam, beta=beta), rel=1e-9, abs=1e-12)


@given(batches(max_groups=2, max_size=3, max_tokens=4), NAMES, LAMBDAS)
def test_gradients_equal_differences_of_the_loops(batch, name, lam):
    logps = batch["per_token_logps"].clone().requires_grad_()
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    loss = our_loss({**batch, "per_token_logps": logps}, name, lambda_, beta=0.04).loss
    wanted = [logps, lambda_] if PRESETS[name].learnable else [logps]
    policy_grad, *lambda_grad = torch.autograd.grad(loss, wanted)
    step = 1e-6
    for i, t in torch.ones_like(logps).nonzero().tolist():
        ratio = math.exp(batch["per_token_logps"][i, t] - batch["old_per_token_logps"][i, t])
        if min(abs(ratio - 0.8), abs(ratio - 1.28)) < 1e-4:
            continue  # a kink of the clip has no derivative
        up, down = batch["per_token_logps"].clone(), batch["per_token_logps"].clone()
        up[i, t] += step
        down[i, t] -= step
        slope = (
            reference_loss(batch, name, lam, logps=up, beta=0.04)
            - reference_loss(batch, name, lam, logps=down, beta=0.04)
        ) / (2 * step)
        assert policy_grad[i, t].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    for grad in lambda_grad:
        slope = (reference_loss(batch, name, lam + step) - reference_loss(batch, name, lam - step)) / (2 * step)
        assert grad.item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@given(batches(), NAMES, LAMBDAS, st.integers(1, 4), st.randoms(), st.booleans())
def test_any_split_into_micro_batches_gives_the_same_loss_and_gradients(batch, name, lam, pieces, random, truncate):
    """Stage 1 on the whole batch, stage 2 on pieces that cut groups in two."""
    lengths = batch["completion_mask"].sum(1)
    if truncate:  # the first response is masked, as mask_truncated_completions does: its length still counts
        batch["completion_mask"] = batch["completion_mask"].clone()
        batch["completion_mask"][0] = 0

    def grads(rows_of_piece):
        logps = batch["per_token_logps"].clone().requires_grad_()
        lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
        total = 0.0
        for rows in rows_of_piece:
            piece = {key: value[rows] for key, value in batch.items()} | {"per_token_logps": logps[rows]}
            stage_1 = {
                "weights": response_weights(lengths, batch["group_ids"], name, lambda_)[rows],
                "normalizer": loss_normalizer(
                    lengths, batch["group_ids"], name,
                    tokens=batch["completion_mask"].sum(1), max_completion_length=LMAX,
                )[rows],
            }  # fmt: skip
            loss = our_loss(piece, name, lambda_, beta=0.04, **stage_1).loss
            loss.backward()
            total += loss.item()
        return total, logps.grad, lambda_.grad

    order = list(range(len(lengths)))
    random.shuffle(order)
    whole = our_loss(batch, name, lam, beta=0.04, lengths=lengths).loss.item()
    loss, policy_grad, lambda_grad = grads([order[i::pieces] for i in range(pieces) if order[i::pieces]])
    one_loss, one_policy_grad, one_lambda_grad = grads([list(range(len(lengths)))])
    assert loss == pytest.approx(whole, rel=1e-9, abs=1e-12)
    assert one_loss == pytest.approx(whole, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(policy_grad, one_policy_grad, rtol=1e-9, atol=1e-12)
    if PRESETS[name].learnable:
        torch.testing.assert_close(lambda_grad, one_lambda_grad, rtol=1e-9, atol=1e-12)


@given(batches(min_length=1), NAMES, LAMBDAS)
def test_truncation_masking_keeps_the_lengths(batch, name, lam):
    lengths = batch["completion_mask"].sum(1)
    masked = {**batch, "completion_mask": batch["completion_mask"].clone()}
    masked["completion_mask"][-1] = 0
    ours = our_loss(masked, name, lam, lengths=lengths).loss.item()
    assert ours == pytest.approx(reference_loss(masked, name, lam, lengths=lengths), rel=1e-9, abs=1e-12)


@given(batches(), NAMES)
def test_padding_never_reaches_loss_or_gradient(batch, name):
    clean = our_loss(batch, name, 0.7, beta=0.04).loss.item()
    outside = batch["completion_mask"] == 0
    for rubbish in (math.nan, math.inf, -math.inf, 1e30):
        padded = {
            **batch,
            "per_token_logps": batch["per_token_logps"].masked_fill(outside, rubbish).requires_grad_(),
            "ref_per_token_logps": batch["ref_per_token_logps"].masked_fill(outside, -rubbish),
        }
        loss = our_loss(padded, name, 0.7, beta=0.04).loss
        loss.backward()
        assert loss.item() == pytest.approx(clean, rel=1e-12, abs=1e-15)
        assert padded["per_token_logps"].grad.isfinite().all()


@given(batches())
def test_two_halves_joined_are_the_whole(batch):
    """Dr. GRPO's constant makes the loss of two batches the mean of theirs."""
    doubled = {key: torch.cat([value, value]) for key, value in batch.items()}
    doubled["group_ids"] = torch.cat([batch["group_ids"], batch["group_ids"] + 1])
    assert our_loss(doubled, "dr_grpo", 0.0).loss.item() == pytest.approx(our_loss(batch, "dr_grpo", 0.0).loss.item())


@given(batches(), LAMBDAS)
def test_gradcheck(batch, lam):
    ratio = (batch["per_token_logps"] - batch["old_per_token_logps"]).exp()
    logps = torch.where(
        ((ratio - 0.8).abs() < 1e-3) | ((ratio - 1.28).abs() < 1e-3),
        batch["old_per_token_logps"],
        batch["per_token_logps"],
    )
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, y: our_loss({**batch, "per_token_logps": x}, "lambda_grpo", y).loss, (logps.requires_grad_(), lambda_)
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_bf16_log_probabilities_are_computed_in_float32(name):
    generator = torch.Generator().manual_seed(0)
    logps = -torch.rand(4, 8, generator=generator)
    batch = {
        "per_token_logps": logps.bfloat16(),
        "old_per_token_logps": logps.bfloat16(),
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5]),
        "completion_mask": torch.ones(4, 8),
        "group_ids": torch.tensor([0, 0, 1, 1]),
        "ref_per_token_logps": logps.bfloat16(),
    }
    loss = our_loss(batch, name, 0.5).loss
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_everything_masked_gives_zero_not_nan():
    batch = {
        "per_token_logps": torch.zeros(2, 3, requires_grad=True),
        "old_per_token_logps": torch.zeros(2, 3),
        "advantages": torch.ones(2),
        "completion_mask": torch.zeros(2, 3),
        "group_ids": torch.tensor([0, 0]),
    }
    for name in PRESETS:
        loss = our_loss(batch, name, 0.5).loss
        loss.backward()
        assert loss.item() == 0.0
        assert batch["per_token_logps"].grad.isfinite().all()


def test_metrics_by_hand():
    batch = {
        "per_token_logps": torch.tensor([[math.log(1.5), 0.0], [math.log(0.5), 0.0]]),
        "old_per_token_logps": torch.zeros(2, 2),
        "advantages": torch.tensor([1.0, 1.0]),
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
        "group_ids": torch.tensor([0, 0]),
    }
    metrics = our_loss(batch, "grpo", 0.0, beta=0.1, ref_per_token_logps=torch.zeros(2, 2)).metrics
    # 1.5 is clipped for A > 0, 0.5 isn't; lengths 2 and 1: f = 1.5/2 and 1.5/1
    assert metrics["clip_ratio"].item() == pytest.approx(1 / 3)
    assert (metrics["weight_min"].item(), metrics["weight_max"].item()) == pytest.approx((0.75, 1.5))
    kl = (1 / 1.5 + math.log(1.5) - 1) + 0.0 + (2 - math.log(2) - 1)
    assert metrics["kl"].item() == pytest.approx(kl / 3)


def test_an_objectives_own_clip_goes_before_the_callers():
    batch = {
        "per_token_logps": torch.tensor([[math.log(3.0)]]),
        "old_per_token_logps": torch.zeros(1, 1),
        "advantages": torch.tensor([1.0]),
        "completion_mask": torch.ones(1, 1),
        "group_ids": torch.tensor([0]),
    }
    wide = Objective("wide", PRESETS["dapo"].preference, epsilon=0.5, epsilon_high=0.9)
    assert policy_loss(**batch, objective=wide).loss.item() == pytest.approx(-1.9)
    assert policy_loss(**batch, objective="dapo").loss.item() == pytest.approx(-1.2)
    assert policy_loss(**batch, objective="dapo", epsilon_high=0.4).loss.item() == pytest.approx(-1.4)


def test_bad_input_is_named():
    batch = {
        "per_token_logps": torch.zeros(2, 3),
        "old_per_token_logps": torch.zeros(2, 3),
        "advantages": torch.ones(2),
        "completion_mask": torch.ones(2, 3),
        "group_ids": torch.tensor([0, 0]),
    }
    with pytest.raises(ValueError, match=r"advantages must have shape \(2,\), got \(3,\)"):
        policy_loss(**{**batch, "advantages": torch.ones(3)}, objective="dapo")
    with pytest.raises(ValueError, match="weights and normalizer go together"):
        policy_loss(**batch, objective="dapo", weights=torch.ones(2))
    with pytest.raises(ValueError, match="weights and normalizer go together"):
        policy_loss(**batch, objective="dapo", normalizer=torch.tensor(6.0))
    with pytest.raises(ValueError, match=r"normalizer must have shape \(2,\), got \(8,\)"):
        policy_loss(**batch, objective="dapo", weights=torch.ones(2), normalizer=torch.ones(8))
    with pytest.raises(ValueError, match="needs ref_per_token_logps"):
        policy_loss(**batch, objective="dapo", beta=0.1)
    with pytest.raises(ValueError, match="needs max_completion_length"):
        policy_loss(**batch, objective="dr_grpo")


def test_a_scalar_normalizer_divides_the_whole_sum():
    batch = {
        "per_token_logps": torch.zeros(2, 3),
        "old_per_token_logps": torch.zeros(2, 3),
        "advantages": torch.tensor([1.0, 3.0]),
        "completion_mask": torch.ones(2, 3),
        "group_ids": torch.tensor([0, 0]),
    }
    weights = torch.tensor([0.5, 1.5])
    for normalizer in (4, 4.0, torch.tensor(4.0), torch.tensor([4.0, 4.0])):
        loss = policy_loss(**batch, objective="lambda_grpo", weights=weights, normalizer=normalizer).loss
        assert loss.item() == pytest.approx(-(0.5 * 3 + 1.5 * 9) / 4)
