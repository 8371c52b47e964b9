import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo import PRESETS, Objective, lambda_penalty, loss_normalizer, policy_loss, response_weights
from lambda_grpo.objective.surrogates import Clip
from tests.objective import reference
from tests.objective.strategies import LAMBDAS, batches, needs, our_loss, prepared


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"bnpo"}))
@settings(max_examples=15)
@given(batches(), LAMBDAS, st.integers(1, 4), st.randoms(), st.booleans())
def test_any_split_gives_the_same_loss_and_gradients(name, batch, lam, pieces, random, truncate):
    """Stage 1 on the whole batch, stage 2 on pieces that cut groups in two."""
    batch = prepared(batch, name)
    lengths = batch["completion_mask"].sum(1)
    if truncate:  # the first response is masked, as mask_truncated_completions does: its length still counts
        batch["completion_mask"] = batch["completion_mask"].clone()
        batch["completion_mask"][0] = 0

    def grads(rows_of_piece):
        micro_batches = torch.zeros_like(lengths)
        for number, rows in enumerate(rows_of_piece):
            micro_batches[rows] = number
        logps = batch["per_token_logps"].clone().requires_grad_()
        lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
        total = 0.0
        for rows in rows_of_piece:
            piece = {key: value[rows] for key, value in batch.items()} | {"per_token_logps": logps[rows]}
            weights = response_weights(lengths, batch["group_ids"], name, lambda_, **needs(batch))
            normalizer = loss_normalizer(
                lengths, batch["group_ids"], name,
                tokens=batch["completion_mask"].sum(1),
                max_completion_length=reference.LMAX,
                micro_batches=micro_batches,
            )  # fmt: skip
            stage_1 = {"weights": weights[rows], "normalizer": normalizer[rows]}
            loss = our_loss(piece, name, lambda_, beta=0.04, **stage_1).loss
            loss.backward()
            total += loss.item()
        penalty = lambda_penalty(lengths, batch["group_ids"], name, lambda_, advantages=batch["advantages"])
        if penalty.requires_grad:
            penalty.backward()
        total += penalty.item()
        return total, logps.grad, lambda_.grad

    order = list(range(len(lengths)))
    random.shuffle(order)
    whole = our_loss(batch, name, lam, beta=0.04, lengths=lengths).loss.item()
    loss, policy_grad, lambda_grad = grads([order[i::pieces] for i in range(pieces) if order[i::pieces]])
    one_loss, one_policy_grad, one_lambda_grad = grads([list(range(len(lengths)))])
    assert loss == pytest.approx(whole, rel=1e-9, abs=1e-12)
    assert one_loss == pytest.approx(whole, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(policy_grad, one_policy_grad, rtol=1e-9, atol=1e-12)
    if PRESETS[name].preference.learnable:
        torch.testing.assert_close(lambda_grad, one_lambda_grad, rtol=1e-9, atol=1e-12)


@given(batches())
def test_two_halves_joined_are_the_whole(batch):
    """Dr. GRPO's constant makes the loss of two batches the mean of theirs."""
    doubled = {key: torch.cat([value, value]) for key, value in batch.items()}
    doubled["group_ids"] = torch.cat([batch["group_ids"], batch["group_ids"] + 1])
    assert our_loss(doubled, "dr_grpo", 0.0).loss.item() == pytest.approx(our_loss(batch, "dr_grpo", 0.0).loss.item())


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
    wide = Objective("wide", PRESETS["dapo"].preference, surrogate=Clip(epsilon=0.5, epsilon_high=0.9))
    assert policy_loss(**batch, objective=wide).loss.item() == pytest.approx(-1.9)
    assert policy_loss(**batch, objective="dapo").loss.item() == pytest.approx(-1.2)
    assert policy_loss(**batch, objective="dapo", epsilon_high=0.4).loss.item() == pytest.approx(-1.4)
    upper = Objective("upper", PRESETS["dapo"].preference, surrogate=Clip(epsilon_high=0.5))
    assert policy_loss(**batch, objective=upper, epsilon_high=0.4).loss.item() == pytest.approx(-1.5)


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
