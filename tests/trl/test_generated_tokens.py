"""The number of generated tokens, and a training that ends at a budget of them: exact, also when it resumes."""

import json
import shutil

import pytest
import torch

from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.data import task_dataset
from lambda_grpo.trl import LambdaGRPOConfig
from tests.trl.setup import TASK, config, logged, make_trainer, parameters

SMALL = {
    "objective": "lambda_grpo", "lambda_lr": 1.0, "per_device_train_batch_size": 8, "num_generations": 4,
    "gradient_accumulation_steps": 1, "max_completion_length": 12, "save_strategy": "steps", "save_steps": 1,
    "lr_scheduler_type": "constant", "max_steps": 9, "optim": "adamw_torch",
}  # fmt: skip
TWICE = {"num_iterations": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 2}


def trained(path, checkpoint=None, **settings):
    trainer = make_trainer(config(path, **{**SMALL, **settings}))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(path / f"checkpoint-{checkpoint}"))
    return trainer


def assert_same(one, other):
    assert one.state.global_step == other.state.global_step
    assert one.lambda_state.state_dict() == other.lambda_state.state_dict()
    for key in ("loss", "grad_norm", "reward", "lambda_grad", "num_tokens", "generated_tokens"):
        assert logged(one, key) == logged(other, key), key
    theirs = parameters(other)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(one).items())


def lengths(path):
    """The completion tokens up to each step, from the samples themselves."""
    samples = Run(path).completions()
    steps, of_each = samples["step"].to_pylist(), samples["length"].to_pylist()
    return {
        last: sum(length for step, length in zip(steps, of_each, strict=True) if step <= last)
        for last in range(1, max(steps) + 1)
    }


def test_the_metric_counts_the_completions_tokens(tmp_path):
    trainer = trained(tmp_path, max_steps=3)
    assert logged(trainer, "generated_tokens") == list(lengths(tmp_path).values())
    own, every = logged(trainer, "generated_tokens"), logged(trainer, "num_tokens")  # with prompts
    assert all(0 < count < total for count, total in zip(own, every, strict=True))


@pytest.mark.parametrize("more", [{}, TWICE, {"objective": "dapo_full"}], ids=["", "twice", "fresh prompts"])
def test_it_ends_after_the_step_that_reaches_the_budget_and_so_does_a_resumed_training(more, tmp_path):
    plain = trained(tmp_path / "plain", **more)
    counts = {
        row["step"]: row["generated_tokens"] for row in Run(tmp_path / "plain").metrics() if "generated_tokens" in row
    }
    last = sorted(counts)[-2]  # the last generation but one
    before = max(count for count in counts.values() if count < counts[last])
    budget = int(before) + 1
    whole = trained(tmp_path / "run", **more, max_generated_tokens=budget)
    assert whole.state.global_step == last
    assert Run(tmp_path / "run").checkpoints()[-1].name == f"checkpoint-{last}"
    assert_same(trained(tmp_path / "steps", **{**more, "max_steps": last}), whole)
    assert_same(trained(tmp_path / "more", **more, max_generated_tokens=10**9), plain)
    for step in {1, last // 2, last - 1}:
        resumed = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "run", resumed)
        assert_same(trained(resumed, step, **more, max_generated_tokens=budget), whole)


def test_at_the_budget_it_saves_and_evaluates_as_at_max_steps(tmp_path):
    evaluated = {"save_steps": 100, "eval_strategy": "steps", "eval_steps": 100, "per_device_eval_batch_size": 4}

    def ended(name, **end):
        args = config(tmp_path / name, **{**SMALL, **evaluated, **end})
        trainer = make_trainer(args, eval_dataset=task_dataset(TASK).select(range(2)))
        trainer.train()
        assert [path.name for path in Run(tmp_path / name).checkpoints()] == ["checkpoint-2"]
        assert len(logged(trainer, "eval_reward")) == 1
        return trainer

    steps = ended("steps", max_steps=2)
    assert_same(ended("tokens", max_generated_tokens=int(logged(steps, "generated_tokens")[0]) + 1), steps)


def test_a_training_at_its_budget_takes_no_further_step(tmp_path):
    whole = trained(tmp_path, max_generated_tokens=150)
    last = whole.state.global_step
    whole.save_model()
    records, model = Run(tmp_path).metrics(), (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    resumed = make_trainer(config(tmp_path, **SMALL, max_generated_tokens=150))
    assert resumed.train(resume_from_checkpoint=True).global_step == last
    resumed.save_model()
    assert_same(resumed, whole)
    assert Run(tmp_path).metrics() == records
    assert (tmp_path / "model.safetensors").read_bytes() == model
    assert Run(tmp_path).config()["model_step"] == last
    further = trained(tmp_path, last, max_generated_tokens=100 + lengths(tmp_path)[last])
    assert further.state.global_step > last


def test_a_checkpoint_without_the_number(tmp_path):
    """Of TRL's own trainer, or of an earlier version: the number isn't known, rather than too small."""
    trained(tmp_path, max_steps=2)
    path = tmp_path / "checkpoint-1" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["generated_tokens"]
    path.write_text(json.dumps(state))
    records = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="max_generated_tokens: the checkpoint doesn't hold the number of tokens"):
        trained(tmp_path, 1, max_generated_tokens=10**6)
    assert (tmp_path / "metrics.jsonl").read_bytes() == records
    assert "generated_tokens" not in trained(tmp_path, 1, max_steps=2).state.log_history[-2]
    assert "generated_tokens" not in Run(tmp_path).metrics()[-1]
    trained(tmp_path, 2, max_steps=3)  # and so it remains


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lr_scheduler_type": "linear"},
            "on which lr_scheduler_type 'linear' depends: set lr_scheduler_type to",
        ),
        ({"lambda_lr_scheduler_type": "cosine"}, "on which lambda_lr_scheduler_type 'cosine' depends"),
        ({"warmup_steps": 0.1}, r"of which warmup_steps 0\.1 is a share: set warmup_steps to a number of steps"),
        ({"max_generated_tokens": 0}, "max_generated_tokens must be at least 1, got 0"),
    ],
)
def test_what_depends_on_the_last_step_is_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        LambdaGRPOConfig(
            **{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "lr_scheduler_type": "constant",
               "max_generated_tokens": 100, **settings}
        )  # fmt: skip


def test_a_warm_up_of_so_many_steps_is_constant(tmp_path):
    settings = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2, "lambda_warmup_steps": 2}
    trainer = trained(tmp_path, max_generated_tokens=150, **settings)
    assert logged(trainer, "learning_rate")[:3] == [0.0, 5e-4, 1e-3]
