"""Token-level preferences, and traces, against plain loops."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import PRESETS, policy_loss, response_weights
from lambda_grpo.objective import mean_weights
from lambda_grpo.objective.surrogates import TracedClip
from lambda_grpo.objective.token_preferences import TailDecay
from lambda_grpo.objective.traces import BLOCK, both_trace, recent_trace
from tests.objective.strategies import batches, our_loss

DECAYS = st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0])


@given(st.integers(0, 3 * BLOCK + 5), DECAYS, st.integers(0, 2**32 - 1))
def test_traces_equal_the_sums(length, decay, seed):
    x = torch.randn(2, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t, k = torch.arange(length)[:, None], torch.arange(length)[None, :]
    past = k <= t
    recent = torch.where(past, torch.tensor(decay, dtype=torch.float64) ** (t - k).clamp(min=0), 0.0)
    both = torch.maximum(recent, torch.where(past, torch.tensor(decay, dtype=torch.float64) ** k, 0.0))
    torch.testing.assert_close(recent_trace(x, decay), x @ recent.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both_trace(x, decay), x @ both.T, rtol=1e-9, atol=1e-9)


def test_traces_by_hand():
    x = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    assert recent_trace(x, 0.5).tolist() == [[1.0, 10.5, 105.25, 1052.625]]
    # t = 3: the first token in full, the second by max(0.25, 0.5), the third by 0.5, the last in full
    assert both_trace(x, 0.5).tolist() == [[1.0, 11.0, 106.0, 1056.0]]


@given(batches())
def test_a_trace_without_memory_is_ppo(batch):
    traced = our_loss(batch, replace(PRESETS["dapo"], surrogate=TracedClip(lambda_trace=0.0)), 0.0).loss
    assert traced.item() == pytest.approx(our_loss(batch, "dapo", 0.0).loss.item(), rel=1e-9, abs=1e-12)


@given(batches(max_groups=2, min_length=1), DECAYS, st.sampled_from(["recent", "both"]))
def test_on_policy_an_earlier_token_gets_the_advantage_of_all_that_follow(batch, decay, trace):
    """At ρ = 1 token k's ∇ log π is multiplied by A · Σ_{t>=k} w_tk; for "recent" A(1 − c^(T−k))/(1 − c)."""
    logps = batch["old_per_token_logps"].clone().requires_grad_()
    objective = replace(PRESETS["dapo"], surrogate=TracedClip(trace, lambda_trace=decay))
    (grad,) = torch.autograd.grad(our_loss({**batch, "per_token_logps": logps}, objective, 0.0).loss, logps)
    lengths = batch["completion_mask"].sum(1).tolist()
    for i, A in enumerate(batch["advantages"].tolist()):
        for k in range(lengths[i]):
            total = sum(max(decay ** (t - k), decay**k if trace == "both" else 0.0) for t in range(k, lengths[i]))
            assert grad[i, k].item() == pytest.approx(-A * total / sum(lengths), rel=1e-9, abs=1e-12)


def test_a_long_drift_of_a_bad_response_stays_finite():
    logps = torch.full((1, 3000), 0.5, requires_grad=True)
    batch = {
        "per_token_logps": logps, "old_per_token_logps": torch.zeros(1, 3000), "advantages": torch.tensor([-1.0]),
        "completion_mask": torch.ones(1, 3000), "group_ids": torch.tensor([0]),
    }  # fmt: skip
    loss = policy_loss(**batch, objective="grpo_lambda").loss
    loss.backward()
    assert loss.isfinite()
    assert logps.grad.isfinite().all()


def test_advantages_are_raised_to_the_least():
    batch = {
        "per_token_logps": torch.zeros(2, 1), "old_per_token_logps": torch.zeros(2, 1),
        "advantages": torch.tensor([-3.0, 2.0]), "completion_mask": torch.ones(2, 1), "group_ids": torch.zeros(2),
    }  # fmt: skip
    assert policy_loss(**batch, objective="grpo_lambda").loss.item() == pytest.approx(-(2.0 - 0.1) / 2)


# -- preferences -----------------------------------------------------------------------------------------------------


def test_shared_prefixes_by_hand():
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 8, 9], [5, 6, 7, 0], [5, 6, 0, 0], [4, 6, 7, 0], [5, 6, 7, 0]])
    lengths, groups = torch.tensor([3, 4, 3, 2, 3, 3]), torch.tensor([0, 0, 0, 0, 0, 9])
    f = response_weights(lengths, groups, "lambda_grpo_prm", completion_ids=ids)
    quarter, half = 1 / 4, 1 / 2
    assert f.tolist() == [
        [quarter, quarter, half, 0],
        [quarter, quarter, 1, 1],
        [quarter, quarter, half, 0],
        [quarter, quarter, 0, 0],
        [1, 1, 1, 0],  # the same tokens after another first one are no shared prefix
        [1, 1, 1, 0],  # of another group
    ]
    assert mean_weights(f, lengths)[0].item() == pytest.approx((quarter + quarter + half) / 3)


@given(batches())
def test_every_step_of_the_process_counts_once(batch):
    """Σ over a node's copies of 1/n is 1: the weights sum to the number of nodes of the groups' tries."""
    lengths = batch["completion_mask"].sum(1)
    f = response_weights(lengths, batch["group_ids"], "lambda_grpo_prm", completion_ids=batch["completion_ids"])
    nodes = {
        (group, *ids[: t + 1])
        for group, ids, length in zip(
            batch["group_ids"].tolist(), batch["completion_ids"].tolist(), lengths.tolist(), strict=True
        )
        for t in range(length)
    }
    assert f.sum().item() == pytest.approx(len(nodes))


def test_a_tools_output_belongs_to_a_prefix():
    """It has no weight of its own, but tells what comes after it apart."""
    ids = torch.tensor([[5, 1, 7], [5, 2, 7], [5, 1, 7]])
    mask = torch.tensor([[1, 0, 1]] * 3)
    f = response_weights(mask.sum(1), torch.zeros(3), "lambda_grpo_prm", completion_ids=ids, token_mask=mask)
    assert f.tolist() == [[1 / 3, 0, 1 / 2], [1 / 3, 0, 1], [1 / 3, 0, 1 / 2]]


def test_behind_the_last_fork_nothing_is_looked_at(monkeypatch):
    """Each token that is shared is looked at once: the work is that of the trie, not of T levels."""
    looked_at = []
    unique = torch.unique

    def counted(values, **settings):
        looked_at.append(len(values))
        return unique(values, **settings)

    ids = torch.randint(0, 50, (64, 2000), generator=torch.Generator().manual_seed(0))
    ids[:, :100] = ids[0, :100]  # a common beginning
    lengths = torch.full((64,), 2000)
    monkeypatch.setattr(torch, "unique", counted)
    response_weights(lengths, torch.zeros(64, dtype=torch.long), "lambda_grpo_prm", completion_ids=ids)
    assert sum(looked_at) < 64 * 110
    looked_at.clear()
    response_weights(
        lengths, torch.zeros(64, dtype=torch.long), "lambda_grpo_prm", completion_ids=ids[:1].repeat(64, 1)
    )
    assert sum(looked_at) == 64 * 2000  # all copies: never more than the tokens


def test_entropy_weights_by_hand():
    """Mean entropies 1 and 3 over real tokens, mean 2; lengths 1 and 3, mean 2: f = μ/|o| · 2/H."""
    entropies = torch.tensor([[1.0, 99.0, 99.0], [2.0, 3.0, 4.0]])
    lengths = torch.tensor([1, 3])
    f = response_weights(lengths, torch.tensor([0, 0]), "edge_grpo", entropies=entropies)
    assert f.tolist() == pytest.approx([2 / 1 * 2 / 1, 2 / 3 * 2 / 3])
    # a tool's tokens have no entropy of the policy's
    mask = torch.tensor([[0, 1, 0], [1, 0, 1]])
    f = response_weights(mask.sum(1), torch.tensor([0, 0]), "edge_grpo", entropies=entropies, token_mask=mask)
    assert f.tolist() == pytest.approx([1.5 / 1 * 51 / 99, 1.5 / 2 * 51 / 3])


def test_no_gradient_passes_through_an_entropy():
    entropies = torch.ones(2, 3, requires_grad=True)
    assert not response_weights(torch.tensor([1, 3]), torch.zeros(2), "edge_grpo", entropies=entropies).requires_grad


def test_a_tail_by_hand():
    ids, lengths = torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 1])
    half = replace(PRESETS["grpo_lambda_tail"], preference=TailDecay(1.0, 0.5))
    f = response_weights(lengths, torch.zeros(2), half, completion_ids=ids)
    assert f.tolist() == [[0.25, 0.5, 1.0], [1.0, 0.0, 0.0]]


def test_weight_norm_tokens_scales_weights_of_tokens_too():
    ids, lengths = torch.tensor([[1, 1, 1], [1, 1, 2]]), torch.tensor([3, 3])
    scaled = replace(PRESETS["lambda_grpo_prm"], weight_norm="tokens")
    f = response_weights(lengths, torch.zeros(2), scaled, completion_ids=ids)
    assert f.flatten().tolist() == pytest.approx([0.75, 0.75, 1.5] * 2)  # 1/2, 1/2, 1 sum to 4 of 6 tokens
