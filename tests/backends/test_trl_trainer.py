"""Configuration, checkpoints, LoRA and what the trainer reports."""

import json

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

from lambda_grpo import PRESETS, Objective, response_weights
from lambda_grpo.backends import trl_trainer
from lambda_grpo.backends.trl_trainer import LAMBDA_STATE_FILE, check_hooks
from lambda_grpo.objective.preference import inverse_length
from lambda_grpo.training_data import task_dataset
from tests.backends.trl_setup import TASK, config, logged, make_trainer, parameters, stock_config


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
    with pytest.raises(FileNotFoundError, match="wasn't written with a learned λ"):
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


def test_lambda_r_and_weight_norm_reach_the_weights(tmp_path):
    objective = config(tmp_path, objective="lambda_grpo", lambda_r=0.05, weight_norm="tokens").resolve_objective()
    assert objective.preference.r == 0.05
    assert objective.weight_norm == "tokens"
    assert PRESETS["lambda_grpo"].preference.r == 1 / 9


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
        ({"objective": "lambda_grpo", "loss_type": "dapo"}, "name the same thing"),
        ({"loss_type": "cispo"}, "unknown objective 'cispo'"),
        ({"lambda_init": 20.0}, "inside its bounds"),
        ({"lambda_bounds": [1.0]}, "takes two values"),
        ({"lambda_lr": -0.1}, "at least 0"),
        ({"objective": "lambda_grpo", "lambda_r": -1.0}, "r must be positive"),
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
    with pytest.raises(TypeError, match="needs args, a LambdaGRPOConfig"):
        make_trainer(stock_config(tmp_path))
    PRESETS["by_entropy"] = Objective("by_entropy", inverse_length, needs=("entropies",))
    with pytest.raises(ValueError, match="reads entropies"):
        make_trainer(config(tmp_path, objective="by_entropy"))


def test_a_moved_hook_is_named_at_import():
    check_hooks(GRPOTrainer)

    class Moved(GRPOTrainer):
        def _compute_loss(self, model, inputs, num_items_in_batch=None):
            raise NotImplementedError

    with pytest.raises(ImportError, match=r"overrides Moved\._compute_loss\(self, model, inputs\), which trl"):
        check_hooks(Moved)
    assert trl_trainer.HOOKS.keys() <= vars(trl_trainer.LambdaGRPOTrainer).keys()
