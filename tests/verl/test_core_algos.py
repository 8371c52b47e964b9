"""verl's own losses against `policy_loss`, value and gradient, on any batch; and where verl departs from a paper.

Runs in verl's environment (`make test-cluster`), which can't be shared with trl's.
"""

import math
from dataclasses import replace

import pytest
import torch
import verl.trainer.ppo.core_algos as core_algos
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.workers.config import ActorConfig

from lambda_grpo import PRESETS, group_advantages, loss_normalizer, policy_loss, response_weights
from lambda_grpo.objective.surrogates import CappedWeight
from tests.objective.strategies import batches, gradients

CLOSE = {"rtol": 1e-6, "atol": 1e-9}  # verl adds 1e-8 to a response's number of tokens
NO_DUAL_CLIP = 1e9
UNIFORM = PRESETS["dapo"]

# name -> (objective, verl's loss, aggregation, configuration)
LOSSES = {
    "vanilla, token-mean": (UNIFORM, "vanilla", "token-mean", {}),
    "vanilla, seq-mean-token-sum": (replace(UNIFORM, normalizer="responses"), "vanilla", "seq-mean-token-sum", {}),
    "vanilla, seq-mean-token-sum-norm": (PRESETS["dr_grpo"], "vanilla", "seq-mean-token-sum-norm", {}),
    "vanilla, seq-mean-token-mean": (PRESETS["grpo"], "vanilla", "seq-mean-token-mean", {}),
    "gspo": (
        PRESETS["gspo"], "gspo", "seq-mean-token-mean", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
    ),
    "cispo": (PRESETS["cispo"], "cispo", "token-mean", {"clip_ratio_low": 1.0, "clip_ratio_high": 4.0}),
    "sapo": (PRESETS["sapo"], "sapo", "seq-mean-token-mean", {}),
    "geo_mean": (PRESETS["gmpo"], "geo_mean", "token-mean", {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}),
}  # fmt: skip


def actor_config(**changes):
    """The least that verl's losses take."""
    defaults = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": NO_DUAL_CLIP}
    return ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, **{**defaults, **changes})


def their_loss(batch, name, aggregation, global_batch_info=None, **changes):
    config = actor_config(**changes)
    config.global_batch_info.update(global_batch_info or {})
    loss, _ = core_algos.get_policy_loss_fn(name)(
        batch["old_per_token_logps"],
        batch["per_token_logps"],
        batch["advantages"][:, None].expand_as(batch["per_token_logps"]),
        batch["completion_mask"],
        aggregation,
        config,
    )
    return loss


def our_loss(batch, objective, **changes):
    arguments = {key: value for key, value in batch.items() if key != "ref_per_token_logps"}
    width = batch["completion_mask"].size(1)  # what verl divides by where loss_scale_factor isn't given
    return policy_loss(**arguments, objective=objective, epsilon_high=0.28, max_completion_length=width, **changes).loss


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=50, deadline=None)
@given(batches(min_length=1, equal_sizes=True))
def test_loss_and_gradient_are_verls(name, batch):
    objective, loss, aggregation, changes = LOSSES[name]
    logps = batch["per_token_logps"].requires_grad_()
    ours, theirs = our_loss(batch, objective), their_loss(batch, loss, aggregation, **changes)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(*(gradients(value, logps)[0] for value in (ours, theirs)), **CLOSE)


@settings(max_examples=50, deadline=None)
@given(batches(min_length=1))
def test_token_sum_is_a_normalizer_of_one(batch):
    logps = batch["per_token_logps"].requires_grad_()
    ones = torch.ones(len(logps), dtype=torch.float64)
    ours = our_loss(batch, UNIFORM, weights=ones, normalizer=1.0)
    theirs = their_loss(batch, "vanilla", "token-sum")
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(*(gradients(value, logps)[0] for value in (ours, theirs)), **CLOSE)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "geo_mean"])
@settings(max_examples=25, deadline=None)
@given(batches(min_length=1, equal_sizes=True), st.integers(1, 3))
def test_verls_global_numbers_are_our_normalizer(name, batch, pieces):
    """Micro-batches sum to the whole batch's loss, in verl with the global counts, here with stage 1's."""
    objective, loss, aggregation, changes = LOSSES[name]
    rows, width = len(batch["group_ids"]), batch["completion_mask"].size(1)
    lengths, ids = batch["completion_mask"].sum(1), batch["group_ids"]
    counts = {"batch_num_tokens": int(lengths.sum()), "global_batch_size": rows, "loss_scale_factor": width}
    weights = response_weights(lengths, ids, objective)
    normalizer = loss_normalizer(lengths, ids, objective, max_completion_length=width)
    ours = theirs = 0.0
    for own in torch.arange(rows).chunk(pieces):
        piece = {key: value[own] for key, value in batch.items()}
        theirs += their_loss(piece, loss, aggregation, counts, **changes)
        ours += our_loss(piece, objective, weights=weights[own], normalizer=normalizer[own])
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(ours, our_loss(batch, objective), **CLOSE)


@given(st.lists(st.integers(0, 1), min_size=4, max_size=4), st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_advantages_are_verls_but_for_its_epsilon(first, second):
    rewards, ids = torch.tensor([*first, *second], dtype=torch.float64), torch.arange(8) // 4
    mask = torch.ones(8, 3)
    for scale, norm in (("group", True), ("none", False)):
        theirs, _ = core_algos.compute_grpo_outcome_advantage(
            rewards[:, None].expand(8, 3) / 3, mask, ids.numpy(), norm_adv_by_std_in_grpo=norm
        )
        torch.testing.assert_close(group_advantages(rewards, ids, scale), theirs[:, 0].double(), rtol=3e-4, atol=1e-6)


# -- where verl departs from a paper ----------------------------------------------------------------------------------


def one_token(log_ratio, advantage, rows=1):
    old = torch.full((rows, 1), -2.0, dtype=torch.float64)
    return {
        "per_token_logps": old + log_ratio,
        "old_per_token_logps": old,
        "advantages": torch.full((rows,), advantage, dtype=torch.float64),
        "completion_mask": torch.ones(rows, 1),
        "group_ids": torch.zeros(rows, dtype=torch.long),
    }


def test_verls_vanilla_has_a_second_clip_for_negative_advantages():
    batch = one_token(math.log(10), -1.0)
    assert actor_config(clip_ratio_c=3.0).clip_ratio_c == ActorConfig.__dataclass_fields__["clip_ratio_c"].default
    assert their_loss(batch, "vanilla", "token-mean", clip_ratio_c=3.0).item() == pytest.approx(3.0)
    assert our_loss(batch, "dapo").item() == pytest.approx(10.0)  # PPO's min(ρA, clip(ρ)A)


def test_verls_log_ratio_is_held_at_20():
    batch = one_token(25.0, -1.0)
    assert their_loss(batch, "vanilla", "token-mean").item() == pytest.approx(math.exp(20))
    assert our_loss(batch, "dapo").item() == pytest.approx(math.exp(25))


def test_verls_cispo_has_a_lower_bound_by_default():
    batch = one_token(math.log(0.1), 1.0)
    assert their_loss(batch, "cispo", "token-mean").item() == pytest.approx(0.8 * -batch["per_token_logps"].item())
    assert our_loss(batch, "cispo").item() == pytest.approx(0.1 * -batch["per_token_logps"].item())
    capped = replace(PRESETS["cispo"], surrogate=CappedWeight(1.28))
    high = one_token(math.log(3), 1.0)
    assert their_loss(high, "cispo", "token-mean").item() == pytest.approx(our_loss(high, capped).item())


def test_verls_gspo_sums_tokens_unless_it_is_told_otherwise():
    """The trainer passes loss_agg_mode on, whose default is token-mean: sequences then count by their length."""
    batch = one_token(0.0, 1.0, rows=2)
    batch = {**batch, **{k: batch[k].expand(2, 3) for k in ("per_token_logps", "old_per_token_logps")}}
    batch["completion_mask"] = torch.tensor([[1, 0, 0], [1, 1, 1]])
    batch["advantages"] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert actor_config().loss_agg_mode == "token-mean"
    assert their_loss(batch, "gspo", "token-mean").item() == pytest.approx(-1 / 4)
    assert their_loss(batch, "gspo", "seq-mean-token-mean").item() == pytest.approx(-1 / 2)
    assert our_loss(batch, "gspo").item() == pytest.approx(-1 / 2)


def test_verls_geo_mean_takes_ppos_clip_unless_it_is_told_otherwise():
    batch = one_token(0.3, 1.0)
    assert their_loss(batch, "geo_mean", "token-mean", clip_ratio_high=0.2).item() == pytest.approx(-math.exp(0.2))
    assert our_loss(batch, "gmpo").item() == pytest.approx(-math.exp(0.3))


def test_verls_sequence_means_leave_empty_responses_out():
    batch = one_token(0.0, 1.0, rows=2)
    batch["completion_mask"] = torch.tensor([[1], [0]])
    assert their_loss(batch, "vanilla", "seq-mean-token-mean").item() == pytest.approx(-1.0)
    lengths = torch.tensor([1, 1])  # the second was truncated and masked: GRPO's mean is still over both
    assert our_loss(batch, "grpo", lengths=lengths).item() == pytest.approx(-1 / 2)
