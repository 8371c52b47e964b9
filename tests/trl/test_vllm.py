"""The correction for what another engine sampled: a factor on each token's loss, in addition to the preference.

vLLM itself has no part here: `vllm_stand_in` samples, with log-probabilities that differ from the policy's.
"""

import math

import pytest
import torch
from trl import GRPOTrainer

from tests.invariant.injected_run import reward
from tests.objective import reference
from tests.trl import vllm_stand_in
from tests.trl.recorded_steps import Recorded, assert_step_is, batch_of
from tests.trl.setup import config, logged, make_trainer, parameters, stock_config
from tests.trl.test_gradients import logps

LOW, HIGH = 0.7, 1.5
ENGINE = {
    "use_vllm": True, "vllm_mode": "server", "vllm_importance_sampling_clip_min": LOW,
    "vllm_importance_sampling_clip_max": HIGH, "per_device_train_batch_size": 8, "max_completion_length": 24, "seed": 4,
}  # fmt: skip
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    vllm_stand_in.install(monkeypatch)


@pytest.mark.parametrize("mode", MODES)
def test_lambda_frozen_at_0_is_dapo_bit_for_bit(mode, tmp_path):
    shared = {
        **ENGINE, "vllm_importance_sampling_mode": mode, "num_iterations": 2, "max_steps": 4, "optim": "sgd",
        "learning_rate": 0.01,
    }  # fmt: skip
    peer = make_trainer(stock_config(tmp_path / "stock", loss_type="dapo", **shared), GRPOTrainer, reward)
    peer.train()
    args = config(tmp_path / "ours", objective="lambda_grpo", lambda_lr=0.0, packing=False, **shared)
    trainer = make_trainer(args, reward=reward)
    trainer.train()
    for key in ("loss", "grad_norm", "sampling/importance_sampling_ratio/mean", "completions/mean_length"):
        assert logged(trainer, key) == logged(peer, key)
    theirs = parameters(peer)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(trainer).items())
    assert min(logged(trainer, "sampling/importance_sampling_ratio/min")) == pytest.approx(LOW * ("mask" not in mode))
    assert 1.0 < max(logged(trainer, "sampling/importance_sampling_ratio/max")) <= HIGH


def correction(policys, engines, mode):
    """The factor of each token of a response, from the log-probabilities of both."""
    differences = [p - e for p, e in zip(policys, engines, strict=True)]
    if mode.startswith("sequence"):
        differences = [sum(differences)] * len(differences)
    ratios = [math.exp(difference) for difference in differences]
    if mode.endswith("mask"):
        return [ratio if LOW <= ratio <= HIGH else 0.0 for ratio in ratios]
    return [min(max(ratio, LOW), HIGH) for ratio in ratios]


def engines_logps(policy, prompt, completion):
    ids = torch.tensor([prompt + completion])
    logits = policy(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    own = (logits + vllm_stand_in.offsets(logits.size(-1)).double()).log_softmax(-1)
    return own[range(len(completion)), completion]


def rare(completion_ids, **_):
    """Leaves some groups without variance."""
    return [float(sum(ids) % 7 == 0) for ids in completion_ids]


CASES = {
    **{mode: ({"vllm_importance_sampling_mode": mode}, reward) for mode in MODES},
    "groups drawn again": (
        {"dynamic_sampling": True, "max_resample_times": 50, "vllm_importance_sampling_mode": "token_truncate"}, rare,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_preference_and_correction_both_weigh_a_token(case, tmp_path):
    """The second step off-policy, with the factor that the samples were drawn by and the λ of its own."""
    settings, graded_by = CASES[case]
    args = config(
        tmp_path, objective="lambda_grpo", lambda_init=1.5, lambda_lr=5.0, num_iterations=2, max_steps=2,
        optim="sgd", learning_rate=0.15, **ENGINE, **settings,
    )  # fmt: skip
    trainer = make_trainer(args, Recorded, graded_by)
    trainer.train()
    sampled = trainer.sampled[-1]
    rewards = graded_by(completion_ids=sampled.completion_ids)
    advantages = reference.advantages(rewards, sampled.group_ids, "group")
    c = []
    with torch.no_grad():
        for i, row in enumerate(zip(sampled.prompt_ids, sampled.completion_ids, strict=True)):
            engines = engines_logps(sampled.policy, *row)
            assert sampled.logprobs[i] == pytest.approx(engines.tolist(), abs=1e-5)
            policys = logps(sampled.policy, row)
            c.append(correction(policys.tolist(), engines.tolist(), args.vllm_importance_sampling_mode))
    assert len({factor for row in c for factor in row}) > 3
    if args.dynamic_sampling:
        assert logged(trainer, "dynamic_sampling/missing_groups") == [0.0]
        assert logged(trainer, "dynamic_sampling/extra_groups")[0] > 0
    first, second = trainer.steps
    assert first.lambda_ == 1.5 != second.lambda_
    for step in trainer.steps:
        batch = batch_of(sampled, step.policy, advantages)

        def loss(lambda_, batch=batch):
            f = reference.weights(batch.lengths, batch.group_ids, "lambda_grpo", lambda_)
            return reference.token_mean(batch, lambda b, i, t: f[i] * c[i][t] * reference.token_clip(b, i, t))

        assert_step_is(step, loss)
    assert logged(trainer, "clip_ratio/region_mean")[1] > 0


def test_the_engine_is_sent_the_policy_and_nothing_of_lambda(tmp_path):
    args = config(tmp_path, objective="lambda_grpo", lambda_lr=5.0, max_steps=2, **ENGINE)
    trainer = make_trainer(args, Recorded, reward)
    trainer.train()
    received = trainer.vllm_generation.vllm_client.received
    assert len(received) == 2
    for sent, sampled in zip(received, trainer.sampled, strict=True):
        policy = dict(sampled.policy.named_parameters())
        assert sent.keys() == policy.keys()
        assert all(torch.equal(value.double(), policy[name]) for name, value in sent.items())


def test_what_the_correction_would_not_reach_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vllm_importance_sampling_correction doesn't reach it"):
        make_trainer(config(tmp_path, objective="gmpo", **ENGINE))
    with pytest.raises(ValueError, match="corrected completions weren't sampled by vLLM"):
        make_trainer(config(tmp_path, error_correction=[0.0, 0.0, 1.0], **ENGINE))
