"""TRL's own losses against `policy_loss`, value and gradient, on any batch; and where TRL departs from a paper.

The log-probabilities are given, in float64, in the place of a model's; all the rest is TRL's `_compute_loss`.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from lambda_grpo import PRESETS, policy_loss
from lambda_grpo.objective.surrogates import CappedWeight, Clip
from tests.objective.strategies import batches, gradients
from tests.trl.setup import TRL_SETTINGS, config, make_trainer, stock_config

# objective -> what TRL's configuration has to say
LOSSES = {
    "grpo": {"loss_type": "grpo", "epsilon_high": 0.28},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon_high": 0.28},
    "bnpo": {"loss_type": "bnpo", "epsilon_high": 0.28},
    **TRL_SETTINGS,
    "gmpo": {},
}
LMAX = 40


def stock(path, name, **changes):
    """TRL's trainer for an objective, which takes its log-probabilities from `given`."""
    base = GMPOTrainer if name == "gmpo" else GRPOTrainer

    class Given(base):
        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            return self.given, torch.zeros_like(self.given), None

    settings = {**LOSSES[name], "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    settings = {**settings, "use_bias_correction_kl": False, **changes}  # the papers' KL has no ratio
    args = config(path, GMPOConfig, **settings) if name == "gmpo" else stock_config(path, **settings)
    trainer = make_trainer(args, Given)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def their_loss(trainer, batch, beta=0.0, tokens=None):
    trainer.given, trainer.beta = batch["per_token_logps"], beta
    ids = torch.zeros_like(batch["completion_mask"])
    return trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids,
            "completion_mask": batch["completion_mask"],
            "advantages": batch["advantages"],
            "old_per_token_logps": batch["old_per_token_logps"],
            "ref_per_token_logps": batch["ref_per_token_logps"],
            "num_items_in_batch": batch["completion_mask"].sum() if tokens is None else torch.tensor(tokens),
        },
    )  # fmt: skip


def our_loss(batch, name, **settings):
    return policy_loss(**batch, objective=name, epsilon_high=0.28, max_completion_length=LMAX, **settings).loss


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_trls(name, tmp_path):
    trainer = stock(tmp_path, name)
    exact = {"rtol": 1e-9, "atol": 1e-6 if name == "sapo" else 1e-11}  # TRL's where() rounds τ = 1.05 to float32

    # Every response has a token here: TRL has no statistics of an empty one
    @settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
    @given(batches(min_length=1, equal_sizes=True), st.sampled_from([0.0, 0.04]))
    def check(batch, beta):
        logps = batch["per_token_logps"].requires_grad_()
        theirs, ours = their_loss(trainer, batch, beta), our_loss(batch, name, beta=beta)
        torch.testing.assert_close(ours, theirs, **exact)
        torch.testing.assert_close(*(gradients(loss, logps)[0] for loss in (ours, theirs)), **exact)

    check()


def one_batch(lengths, log_ratio, advantages):
    """Groups of two responses with one log-ratio for all of their tokens."""
    lengths = torch.tensor(lengths)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).int()
    old = torch.full(mask.shape, -2.0, dtype=torch.float64)
    return {
        "per_token_logps": old + log_ratio,
        "old_per_token_logps": old,
        "ref_per_token_logps": old,
        "advantages": torch.tensor(advantages, dtype=torch.float64),
        "completion_mask": mask,
        "group_ids": torch.arange(len(lengths)) // 2,
    }


def test_trls_dapo_is_a_mean_over_the_batch_where_the_paper_has_one_for_each_prompt(tmp_path):
    batch = one_batch([1, 1, 8, 8], 0.0, [1.0, 0.5, 2.0, 0.0])
    theirs = their_loss(stock(tmp_path, "dapo"), batch).item()
    assert theirs == pytest.approx(-(1 + 0.5 + 16) / 18)
    per_prompt = replace(PRESETS["dapo"], normalizer="group")
    assert our_loss(batch, per_prompt).item() == pytest.approx(-(1.5 / 2 + 16 / 16) / 2)


def test_trls_cispo_without_epsilon_high_caps_every_weight_at_a_fifth(tmp_path):
    batch = one_batch([2, 2], 0.0, [1.0, 1.0])
    trainer = stock(tmp_path, "cispo", epsilon_high=None)
    assert their_loss(trainer, batch).item() == pytest.approx(0.2 * 2.0)  # −0.2 · A · log π
    assert our_loss(batch, replace(PRESETS["cispo"], surrogate=CappedWeight(0.2))).item() == pytest.approx(0.4)
    assert our_loss(batch, "cispo").item() == pytest.approx(2.0)
    assert config(tmp_path, loss_type="cispo").resolve_objective() == PRESETS["cispo"]


def test_trls_luspo_alone_clips_tokens_where_the_paper_has_one_ratio_a_sequence(tmp_path):
    batch = one_batch([2, 2], torch.tensor([0.5, -0.5]), [1.0, 1.0])
    trainer = stock(tmp_path, "luspo", importance_sampling_level="token")
    by_token = replace(PRESETS["luspo"], surrogate=Clip("token", 2e-3, 2.5e-3))
    assert their_loss(trainer, batch).item() == pytest.approx(our_loss(batch, by_token).item())
    assert our_loss(batch, "luspo").item() == pytest.approx(-2.0)  # the mean of log ρ is 0
    assert their_loss(trainer, batch).item() > -1.7


def test_trls_vespo_holds_the_sequence_ratio_within_limits_that_the_paper_lacks(tmp_path):
    batch = one_batch([10, 10], -2.0, [1.0, 1.0])  # log W = −20, below log 1e-8
    theirs = their_loss(stock(tmp_path, "vespo"), batch).item()
    assert theirs == pytest.approx(our_loss(batch, "vespo").item())  # ours has them too: W² overflows without
    batch = one_batch([2, 2], torch.tensor([-25.0, 10.0]), [1.0, 1.0])  # and each token's log ρ within ±20
    theirs = their_loss(stock(tmp_path, "vespo"), batch).item()
    assert theirs == pytest.approx(our_loss(batch, "vespo").item())
    batch = one_batch([10, 10], -2.0, [1.0, 1.0])
    theirs = their_loss(stock(tmp_path, "vespo"), batch).item()
    paper = math.exp(-20) ** 2 * math.exp(3 * (1 - math.exp(-20)))
    assert theirs == pytest.approx(4.0 * 1e-16 * math.exp(3), rel=1e-6)
    assert paper * 4.0 < theirs / 10


def test_trls_kl_is_multiplied_by_the_ratio_where_grpos_is_not(tmp_path):
    batch = one_batch([1, 1], 0.1, [0.0, 0.0])
    kl = math.exp(-0.1) + 0.1 - 1
    by_default = stock(tmp_path, "grpo", use_bias_correction_kl=True)
    assert stock_config(tmp_path).use_bias_correction_kl
    assert their_loss(by_default, batch, beta=1.0).item() == pytest.approx(math.exp(0.1) * kl)
    assert our_loss(batch, "grpo", beta=1.0).item() == pytest.approx(kl)


def test_trls_token_mean_takes_the_average_step_of_a_generated_batch(tmp_path):
    """Two optimiser steps share a generation of 2 and 16 tokens: both divide by 9."""
    trainer = stock(tmp_path, "dapo", steps_per_generation=2)
    for batch, own in ((one_batch([1, 1], 0.0, [1.0, 1.0]), 2), (one_batch([8, 8], 0.0, [1.0, 1.0]), 16)):
        theirs = their_loss(trainer, batch, tokens=18).item()
        assert theirs == pytest.approx(-own / 9)
        assert our_loss(batch, "dapo").item() == pytest.approx(-1.0)
