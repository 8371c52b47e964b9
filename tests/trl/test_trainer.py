"""Configuration, checkpoints, LoRA and what the trainer reports."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

from lambda_grpo import PRESETS, Objective, response_weights
from lambda_grpo.errors import UserError
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE
from lambda_grpo.objective.preferences import LambdaExp, LambdaSoftmax
from lambda_grpo.objective.rollout_spec import AtLeast, BestAndWorst, ErrorCorrection, RolloutSpec
from lambda_grpo.objective.surrogates import CappedWeight, Clip, GammaWeight, GeometricMean, SoftGate, TracedClip
from lambda_grpo.objective.token_preferences import TailDecay
from lambda_grpo.training.data import task_dataset
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer
from lambda_grpo.trl.hooks import HOOKS, check_hooks
from tests.invariant import injected_run
from tests.invariant.injected_run import Injected
from tests.objective.own_parts import Negative
from tests.trl.setup import TASK, config, logged, make_trainer, parameters


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resume_is_exact(optimizer, tmp_path):
    settings = {
        "objective": "lambda_grpo", "lambda_init": 0.5, "lambda_optimizer": optimizer, "max_steps": 6,
        "save_strategy": "steps", "save_steps": 3,
    }  # fmt: skip
    whole = make_trainer(config(tmp_path, **settings))
    whole.train()
    resumed = make_trainer(config(tmp_path, **settings))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.lambda_state.value == whole.lambda_state.value
    assert logged(resumed, "lambda") == logged(whole, "lambda")
    theirs = parameters(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(resumed).items())


def test_resume_refuses_a_checkpoint_without_this_lambda(tmp_path):
    settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    make_trainer(config(tmp_path, objective="lambda_grpo", **settings)).train()
    checkpoint = tmp_path / "checkpoint-1"
    with pytest.raises(ValueError, match="trained with objective 'lambda_grpo', not 'lambda_grpo_paper'"):
        make_trainer(config(tmp_path, objective="lambda_grpo_paper", **settings)).train(
            resume_from_checkpoint=str(checkpoint)
        )
    (checkpoint / LAMBDA_STATE_FILE).unlink()
    with pytest.raises(UserError, match="wasn't written with a learned λ"):
        make_trainer(config(tmp_path, objective="lambda_grpo", **settings)).train(
            resume_from_checkpoint=str(checkpoint)
        )


def test_lambda_stays_outside_the_model(tmp_path):
    trainer = make_trainer(config(tmp_path, objective="lambda_grpo", max_steps=1))
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    saved = json.loads((tmp_path / "model" / LAMBDA_STATE_FILE).read_text())
    assert saved["value"] == trainer.lambda_state.value != 0.0
    assert not any("lambda" in name for name in trainer.model.state_dict())
    optimised = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in optimised} == {id(p) for p in trainer.model.parameters()}
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_lora(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    settings = {"objective": "lambda_grpo", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(config(tmp_path, **settings), peft_config=lora)
    before = parameters(whole)
    whole.train()
    changed = {name for name, value in parameters(whole).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert whole.lambda_state.value != 0.0
    resumed = make_trainer(config(tmp_path, **settings), peft_config=lora)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.lambda_state.value == whole.lambda_state.value


def test_samples_are_reported_as_they_were_used(tmp_path):
    batches = []
    args = config(tmp_path, objective="lambda_grpo", lambda_init=2.0, lambda_lr=1.0, max_steps=2)
    trainer = make_trainer(args, on_samples=batches.append)
    trainer.train()
    assert len(batches) == 2
    assert batches[0]["group"] == [i // 8 for i in range(32)]
    for batch, lambda_ in zip(batches, logged(trainer, "lambda"), strict=True):
        by_prompt = {TASK[i].prompt: TASK[i] for i in range(len(TASK))}
        for prompt, completion, answer, reward in zip(
            batch["prompt"], batch["completion"], batch["answer"], batch["reward"], strict=True
        ):
            assert by_prompt[prompt].answer == answer
            assert TASK.grade(completion, by_prompt[prompt]) == reward
        lengths, groups = torch.tensor(batch["length"]), torch.tensor(batch["group"])
        expected = response_weights(lengths, groups, "lambda_grpo", lambda_)
        assert batch["weight"] == pytest.approx(expected.tolist())
    assert logged(trainer, "weight_min") == pytest.approx([min(b["weight"]) for b in batches])
    assert logged(trainer, "weight_max") == pytest.approx([max(b["weight"]) for b in batches])


def test_evaluation_during_training_leaves_training_alone(tmp_path):
    settings = {"objective": "lambda_grpo", "max_steps": 2, "num_iterations": 2, "per_device_eval_batch_size": 8}
    trainer = make_trainer(
        config(tmp_path, eval_strategy="steps", eval_steps=1, num_generations_eval=4, **settings),
        eval_dataset=task_dataset(TASK).select(range(4)),
    )
    trainer.train()
    assert len(logged(trainer, "eval_reward")) == 2
    assert len(logged(trainer, "lambda")) == 2


def test_what_is_set_goes_before_the_objectives_own(tmp_path):
    def resolved(**settings):
        return config(tmp_path, **settings).resolve_objective()

    assert resolved(objective="lambda_grpo", lambda_r=0.05, weight_norm="tokens") == replace(
        PRESETS["lambda_grpo"],
        preference=LambdaSoftmax(r=0.05),
        weight_norm="tokens",
        surrogate=Clip("token", 0.2),
    )
    assert resolved(objective="lambda_grpo_exp", lambda_r=1.0).preference == LambdaExp(1.0)
    assert resolved(objective="gspo") == PRESETS["gspo"]
    assert resolved(objective="gspo", epsilon=0.1).surrogate == Clip("sequence", 0.1)
    assert resolved(objective="gspo", epsilon_high=0.1).surrogate == Clip("sequence", 3e-4, 0.1)
    assert resolved(loss_type="grpo", importance_sampling_level="sequence").surrogate == Clip("sequence", 0.2)
    assert resolved(objective="gmpo", epsilon=0.3).surrogate == GeometricMean(0.3)
    assert resolved(loss_type="cispo", epsilon_high=3.0).surrogate == CappedWeight(3.0)
    assert resolved(loss_type="sapo", sapo_temperature_neg=2.0).surrogate == SoftGate(1.0, 2.0)
    assert resolved(loss_type="vespo", vespo_k_pos=1.5).surrogate == GammaWeight(k_pos=1.5)
    traced = resolved(objective="grpo_lambda", trace="both", trace_lambda=0.9, epsilon=0.1, advantage_min=-0.5)
    assert (traced.surrogate, traced.advantage_min) == (TracedClip("both", 1.0, 0.9, 0.1), -0.5)
    assert resolved(objective="grpo_lambda_tail", trace_gamma=0.5).preference == TailDecay(0.5)
    assert resolved(objective="dapo_full").rollouts == RolloutSpec(dynamic_sampling=True, overlong_buffer=0.2)
    assert resolved(objective="dapo_full", dynamic_sampling=False, overlong_buffer_length=0).rollouts == RolloutSpec()
    assert resolved(overlong_buffer_length=10, max_completion_length=40).rollouts == RolloutSpec(overlong_buffer=0.25)
    assert resolved(select_best_and_worst=3, selection_baseline="selected").rollouts.selection == BestAndWorst(
        3, "selected"
    )
    assert resolved(objective="devis_grpo", select_min_reward=0.5).rollouts.selection == AtLeast(0.5)
    assert resolved(error_correction=[0.0, 1.0, 0.0]).rollouts.correction == ErrorCorrection(0.0, 1.0, 0.0)
    assert resolved(objective="edge_grpo", error_correction=[0.0, 0.0, 0.0]).rollouts == RolloutSpec()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_lambda_has_a_schedule_of_its_own_and_resumes_in_it(schedule, tmp_path):
    settings = {
        "objective": "lambda_grpo", "lambda_lr": 2.0, "lambda_lr_scheduler_type": schedule, "lambda_warmup_steps": 2,
        "max_steps": 6, "save_strategy": "steps", "save_steps": 3,
    }  # fmt: skip
    whole = make_trainer(config(tmp_path, **settings))
    whole.train()
    values = [*logged(whole, "lambda"), whole.lambda_state.value]
    rates = [0.0, 0.5, *([1.0, 0.75, 0.5, 0.25] if schedule == "linear" else COSINE)]
    for before, after, grad, rate in zip(values, values[1:], logged(whole, "lambda_grad"), rates, strict=False):
        assert after - before == pytest.approx(-2.0 * rate * grad, rel=1e-4, abs=1e-7)
    assert whole.lambda_state.lr == pytest.approx(0.0)
    resumed = make_trainer(config(tmp_path, **settings))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.lambda_state.value == whole.lambda_state.value


COSINE = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]


def test_weights_are_logged_over_the_generated_batch(tmp_path):
    batches = []
    args = config(tmp_path, objective="lambda_grpo", lambda_init=9.0, lambda_lr=0.0, sampler="trl")
    trainer = make_trainer(args, on_samples=batches.append)
    trainer.train()
    for batch, low, high, effective in zip(
        batches, *(logged(trainer, key) for key in ("weight_min", "weight_max", "effective_sample_size")), strict=True
    ):
        weights = torch.tensor(batch["weight"]).view(-1, 8)
        assert (low, high) == pytest.approx((weights.min().item(), weights.max().item()))
        assert effective == pytest.approx((weights.sum(1) ** 2 / (weights**2).sum(1)).mean().item(), rel=1e-5)
        assert effective < 6


def test_a_saturated_softmax_is_warned_of_once(tmp_path):
    """On completions of random lengths, where few are equal."""
    args = config(tmp_path, objective="lambda_grpo_exp", lambda_r=5.0, lambda_init=9.0, lambda_lr=0.0)
    trainer = make_trainer(args, Injected)
    trainer.steps = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    assert len(trainer.steps) == 3
    assert [str(w.message) for w in caught if "nearly all the weight" in str(w.message)] == [
        "λ = 9.0: in half of the groups one response has nearly all the weight, and λ's gradient vanishes. "
        "Narrow lambda_bounds, or lower lambda_lr"
    ]


@pytest.mark.parametrize("name", ["lambda_grpo_paper", "gspo", "cispo", "fspo"])
def test_the_trainers_arguments_say_what_was_asked_for(name, tmp_path):
    args = config(tmp_path, objective=name)
    kept = make_trainer(args).args
    assert (kept.objective, kept.loss_type, kept.epsilon) == (name, None, None)
    again = {key: value for key, value in args.to_dict().items() if key != "generation_batch_size"}  # TRL's own quirk
    assert LambdaGRPOConfig(**again).resolve_objective() == args.resolve_objective()


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_logged_policy_loss_is_our_own_where_trl_has_none(pieces, tmp_path):
    """TRL logs it beside an entropy bonus: loss = policy loss − coefficient · entropy."""
    settings = {
        "entropy_coef": 0.01, "num_iterations": 2, "max_steps": 2, "gradient_accumulation_steps": pieces,
        "per_device_train_batch_size": 16 // pieces,
    }  # fmt: skip
    trainer = make_trainer(config(tmp_path, objective="gmpo", **settings), Injected, injected_run.reward)
    trainer.steps = []
    trainer.train()
    policy_losses = logged(trainer, "policy_loss")
    assert abs(policy_losses[1]) > 1e-6
    bonus = [0.01 * entropy for entropy in logged(trainer, "entropy")]
    expected = [loss + more for loss, more in zip(logged(trainer, "loss"), bonus, strict=True)]
    assert policy_losses == pytest.approx(expected, abs=1e-6)


def test_no_warning_while_the_weights_are_spread(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(config(tmp_path, objective="lambda_grpo", lambda_init=1.0)).train()
    assert not [w for w in caught if "nearly all the weight" in str(w.message)]


def test_daro_learns_a_weight_for_each_pass_rate_within_its_bounds(tmp_path):
    settings = {
        "objective": "daro", "lambda_bounds": [-0.25, 0.25], "max_steps": 4, "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    whole = make_trainer(config(tmp_path, **settings))
    whole.train()
    values = whole.lambda_state.value
    assert len(values) == 7  # right answers of 8: 1 .. 7
    assert any(values)
    assert all(-0.25 <= value <= 0.25 for value in values)
    assert [entry for entry in whole.state.log_history if "lambda/7" in entry]
    resumed = make_trainer(config(tmp_path, **settings))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.lambda_state.value == values


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("dapo", "group")),
        ({"loss_type": "grpo"}, ("grpo", "group")),
        ({"loss_type": "dr_grpo"}, ("dr_grpo", "none")),
        ({"objective": "dr_grpo"}, ("dr_grpo", "none")),
        ({"objective": "dr_grpo", "scale_rewards": "batch"}, ("dr_grpo", "batch")),
        ({"objective": "grpo", "loss_type": "grpo", "scale_rewards": False}, ("grpo", "none")),
        ({"objective": "grpo", "scale_rewards": "false"}, ("grpo", "none")),
    ],
)
def test_objective_and_loss_type(settings, expected, tmp_path):
    args = config(tmp_path, **settings)
    assert (args.objective, args.scale_rewards) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "grop"}, "unknown objective 'grop'"),
        ({"objective": ""}, "unknown objective"),
        ({"objective": "lambda_grpo", "loss_type": "dapo"}, "name the same thing"),
        ({"loss_type": "gpg"}, "unknown objective 'gpg'"),
        ({"objective": "sapo", "epsilon": 0.1}, "'sapo' has no lower clip: leave epsilon out"),
        ({"objective": "fspo", "epsilon_high": 0.1}, "leave epsilon_high out"),
        ({"objective": "gmpo", "importance_sampling_level": "sequence"}, "forms its ratio by itself"),
        ({"importance_sampling_level": "response"}, "it must be 'token' or 'sequence'"),
        ({"lambda_lr_scheduler_type": "step"}, "use 'constant', 'linear' or 'cosine'"),
        ({"objective": "daro", "num_generations_eval": 4}, "leave num_generations_eval out"),
        ({"loss_type": "sapo", "sapo_temperature_pos": 0.0}, "tau_pos must be above 0"),
        ({"objective": "grpo", "selection_baseline": "selected"}, "selects no samples: leave selection_baseline out"),
        ({"select_best_and_worst": 2, "select_min_reward": 1.0}, "both select: give one of them"),
        ({"select_best_and_worst": 0}, "select_best_and_worst must be at least 1, got 0"),
        (
            {"objective": "devis_grpo", "selection_baseline": "all"},
            "selection_baseline is 'all': use 'group' or 'selected'",
        ),
        ({"objective": "devis_grpo", "beta": 0.1}, "averages the KL term in another way"),
        ({"trace": "both"}, "'dapo' has no trace: leave it out"),
        ({"objective": "grpo_lambda_tail", "trace": "both"}, "'grpo_lambda_tail' has no trace"),
        ({"objective": "gspo", "trace_gamma": 0.5}, "has no trace_gamma"),
        ({"objective": "lambda_grpo_prm", "importance_sampling_level": "sequence"}, "use token ratios"),
        ({"advantage_min": 0.5}, "advantage_min must be at most 0, got 0.5"),
        ({"select_min_reward": math.nan}, "least reward of a sample must be a number"),
        ({"objective": "devis_grpo", "num_generations": 4}, "2 best and 2 worst of 4 are all of them"),
        ({"sampler": "vllm"}, "use 'fast' or 'trl'"),
        ({"max_resample_times": 0}, "max_resample_times must be at least 1"),
        ({"overlong_buffer_length": 41}, "it must be 0 to max_completion_length \\(40\\)"),
        ({"error_correction": [0.5, 0.5]}, "takes three shares"),
        ({"error_correction": [0.5, 0.5, 0.5]}, "sum to 1 or less"),
        ({"objective": "grpo_lambda", "trace": "none"}, "trace is 'none': use 'recent' or 'both'"),
        ({"objective": "grpo_lambda", "trace_lambda": 1.5}, "trace_lambda must be from 0 to 1, got 1.5"),
        ({"objective": "grpo_lambda_tail", "trace_gamma": -0.1}, "trace_gamma must be from 0 to 1, got -0.1"),
        ({"lambda_warmup_steps": -1}, "lambda_warmup_steps must be at least 0"),
        ({"objective": "balanced", "beta": 0.1}, "'grpo' loss averages the KL term in another way"),
        ({"lambda_init": 20.0}, "inside its bounds"),
        ({"lambda_bounds": [1.0]}, "takes two values"),
        ({"lambda_lr": -0.1}, "at least 0"),
        ({"objective": "lambda_grpo", "lambda_r": -1.0}, "lambda_r must be above 0, got -1.0"),
        ({"scale_rewards": "std"}, "scale_rewards is 'std'"),
        ({"weight_norm": "max"}, "weight_norm is 'max'"),
        ({"objective": "lambda_grpo_paper", "beta": 0.1}, "averages the KL term in another way"),
        ({"num_generations": 1}, "set it to 2 or more"),
        (
            {"per_device_train_batch_size": 3},
            "6 completions are generated at a time, not a multiple of num_generations",
        ),
    ],
)
def test_bad_configurations_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_the_trainer_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match="TRL's losses lack: delta doesn't reach it"):
        make_trainer(config(tmp_path, objective="fspo", delta=4.0))
    with pytest.raises(ValueError, match="top_entropy_quantile doesn't reach it"):
        make_trainer(config(tmp_path, objective="gmpo", top_entropy_quantile=0.5))
    PRESETS["negative"] = Objective("negative", Negative())
    with pytest.raises(ValueError, match="gives weights below 0"):
        make_trainer(config(tmp_path, objective="negative", max_steps=1)).train()


def test_a_moved_hook_is_named_at_import():
    check_hooks(GRPOTrainer)

    class Moved(GRPOTrainer):
        def _compute_loss(self, model, inputs, num_items_in_batch=None):
            raise NotImplementedError

    with pytest.raises(ImportError, match=r"builds on Moved\._compute_loss\(self, model, inputs\), which trl"):
        check_hooks(Moved)
    overridden = set(vars(LambdaGRPOTrainer))
    assert HOOKS.keys() <= overridden
