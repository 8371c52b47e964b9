"""Every preset at the edges: the loss and its gradients in policy and λ stay finite."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo import PRESETS, group_advantages, loss_normalizer, policy_loss, response_weights
from tests.objective import reference
from tests.objective.strategies import LAMBDAS, batches, gradients, our_loss, prepared

EDGES = {
    "equal lengths": [5] * 8,
    "one response": [3],
    "an empty response": [0, 4, 2, 7],
    "all empty": [0, 0],
    "G = 2": [1, 9],
    "G = 81": [1] + [9] * 80,
    "G = 82": [1] + [9] * 81,
    "G = 256": [1] + [12] * 255,
    "lengths of 1 and 100,000": [1, 100_000, 1],
}


def batch_of(lengths, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(lengths))
    B, T = len(lengths), max(*lengths, 1)
    old = -torch.rand(B, T, generator=generator)
    ids = torch.zeros(B, dtype=torch.long)
    noise = 0.1 * torch.randn(B, T, generator=generator)
    return {
        "per_token_logps": (old + noise).to(dtype),
        "old_per_token_logps": old.to(dtype),
        "advantages": group_advantages((torch.arange(B) % 3 == 0).float(), ids),
        "completion_mask": torch.arange(T) < torch.tensor(lengths)[:, None],
        "group_ids": ids,
        "entropies": torch.rand(B, T, generator=generator),
        "completion_ids": torch.randint(0, 2, (B, T), generator=generator),
    }


def assert_finite(batch, name, lam, **settings):
    logps = batch["per_token_logps"].clone().requires_grad_()
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    loss = our_loss({**batch, "per_token_logps": logps}, name, lambda_, **settings).loss
    policy_grad, lambda_grad = gradients(loss, logps, lambda_)
    assert loss.isfinite()
    assert policy_grad.isfinite().all()
    assert lambda_grad.isfinite()
    return loss, policy_grad


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("edge", EDGES)
def test_finite(edge, name):
    for lam in (-10.0, 0.0, 10.0):
        assert_finite(batch_of(EDGES[edge]), name, lam)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_finite_where_all_are_truncated(name):
    batch = batch_of([4, 7, 7, 2])
    lengths = batch["completion_mask"].sum(1)
    batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    for lam in (-10.0, 10.0):
        loss, grad = assert_finite(batch, name, lam, lengths=lengths)
        penalty = -lam if name == "daro" else 0.0  # its one pass rate
        assert loss.item() == penalty
        assert (grad == 0.0).all()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_finite_and_in_float32_from_bf16(name):
    batch = batch_of([4, 7, 7, 2], torch.bfloat16)
    for lam in (-10.0, 10.0):
        loss, grad = assert_finite(batch, name, lam, ref_per_token_logps=batch["old_per_token_logps"], beta=0.04)
        assert loss.dtype == torch.float32
        assert grad.dtype == torch.bfloat16


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 1e30, 500.0])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_masked_tokens_never_reach_loss_or_gradient(name, rubbish):
    """Not even a ratio that overflows."""
    batch = batch_of([4, 7, 0, 2])
    batch["ref_per_token_logps"] = batch["old_per_token_logps"]
    clean, clean_grad = assert_finite(batch, name, 0.7, beta=0.04)
    outside = ~batch["completion_mask"]
    rubbishes = {"per_token_logps": rubbish, "old_per_token_logps": -rubbish, "ref_per_token_logps": 0.0}
    for key, value in {**rubbishes, "entropies": rubbish, "completion_ids": -100}.items():
        batch[key] = batch[key].masked_fill(outside, value)
    loss, grad = assert_finite(batch, name, 0.7, beta=0.04)
    assert loss.item() == clean.item()
    assert torch.equal(grad, clean_grad)


@pytest.mark.parametrize("name", sorted(PRESETS))
@settings(max_examples=10)
@given(batches(), LAMBDAS, st.integers(0, 5), st.randoms())
def test_padding_and_order_are_irrelevant(name, batch, lam, extra, random):
    batch = prepared(batch, name)
    whole = our_loss(batch, name, lam, beta=0.04).loss.item()
    order = list(range(len(batch["group_ids"])))
    random.shuffle(order)
    moved = {key: value[order] for key, value in batch.items()}
    for key, value in moved.items():
        moved[key] = torch.nn.functional.pad(value, (0, extra), value=0) if value.dim() == 2 else value
    assert our_loss(moved, name, lam, beta=0.04).loss.item() == pytest.approx(whole, rel=1e-9, abs=1e-12)


@given(batches(min_length=1))
def test_bnpo_depends_on_the_split_by_its_definition(batch):
    """The mean over micro-batches of the mean over their tokens: the mean over all tokens only for equal counts."""
    lengths, ids = batch["completion_mask"].sum(1), batch["group_ids"]
    micro_batches = torch.arange(len(lengths)) % 2
    normalizer = loss_normalizer(lengths, ids, "bnpo", micro_batches=micro_batches)
    b = reference.Batch.of(batch)
    total, means = 0.0, []
    for number in micro_batches.unique():
        rows = (micro_batches == number).nonzero().flatten()
        piece = {key: value[rows] for key, value in batch.items()}
        total += our_loss(
            piece, "bnpo", 0.0, weights=response_weights(lengths, ids, "bnpo")[rows], normalizer=normalizer[rows]
        ).loss.item()
        own = [i for i in rows.tolist() if b.lengths[i]]
        sums = sum(reference.token_clip(b, i, t).item() for i in own for t in b.tokens(i))
        means.append(-sums / sum(b.lengths[i] for i in own))
    assert total == pytest.approx(sum(means) / len(means), rel=1e-9, abs=1e-12)


def test_bnpo_varies_where_dapo_does_not():
    batch = batch_of([1, 9, 3, 3])
    lengths, ids = batch["completion_mask"].sum(1), batch["group_ids"]

    def accumulated(name, split):
        normalizer = loss_normalizer(lengths, ids, name, micro_batches=torch.tensor(split))
        total = 0.0
        for number in set(split):
            rows = [i for i, s in enumerate(split) if s == number]
            piece = {key: value[rows] for key, value in batch.items()}
            total += policy_loss(
                **piece, objective=name, weights=torch.ones(len(rows)), normalizer=normalizer[rows]
            ).loss
        return total.item()

    one, other = [0, 1, 0, 1], [0, 0, 1, 1]
    assert accumulated("dapo", one) == pytest.approx(accumulated("dapo", other), rel=1e-6)
    assert abs(accumulated("bnpo", one) - accumulated("bnpo", other)) > 0.05
