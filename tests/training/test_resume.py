"""Resuming: what can be refused is refused, and what breaks, breaks, before anything of the run is touched."""

import shutil

import pytest

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.models import resolve_model, training_info
from lambda_grpo.runs.directory import Run
from lambda_grpo.training import held_out
from lambda_grpo.training import run as training
from lambda_grpo.trl import LambdaGRPOTrainer

SETTINGS = [
    "--max_steps", "2", "--save_steps", "1", "--eval_size", "8", "--per_device_train_batch_size", "16",
    "--max_completion_length", "16",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--output_dir", str(path), *SETTINGS]) == 0
    return path


@pytest.fixture
def finished(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def run(finished):
    """As after a kill between its two checkpoints."""
    shutil.rmtree(finished.path / "checkpoint-2")
    return finished


def everything(run):
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--objective", "grpo"], "with objective 'lambda_grpo', not 'grpo': objective can't change on resume"),
        (
            ["--lambda_optimizer", "adam"],
            "with lambda_optimizer 'sgd', not 'adam': lambda_optimizer can't change on resume",
        ),
        (["--lambda_init", "0.5"], "with lambda_init 0.0, not 0.5: lambda_init can't change on resume"),
        (["--task", "chain_sum"], "with task 'arithmetic', not 'chain_sum': task can't change on resume"),
        (["--task_size", "100"], "with task_size None, not 100"),
        (["--task_seed", "1"], "with task_seed 0, not 1"),
        (["--eval_size", "9"], "with eval_size 8, not 9"),
        (["--model_name_or_path", "other"], "with model_name_or_path 'builtin', not 'other'"),
        (["--num_generations", "4"], "with num_generations 8, not 4"),
        (["--max_completion_length", "8"], "with max_completion_length 16, not 8"),
        (["--temperature", "0.5"], "with temperature 1.0, not 0.5"),
        (["--top_p", "0.5"], "with top_p 1.0, not 0.5"),
        (["--top_k", "5"], "with top_k 0, not 5"),
        (["--min_p", "0.1"], "with min_p None, not 0.1"),
        (["--repetition_penalty", "1.1"], "with repetition_penalty 1.0, not 1.1"),
        (["--drop_zero_variance", "true"], "with drop_zero_variance False, not True"),
        (["--use_peft"], "with use_peft False, not True"),
        (["--learning_rate", "-1"], "learning_rate must be at least 0, got -1.0"),
        (["--adam_beta1", "2"], "adam_beta1 must be at least 0 and below 1"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "lr_scheduler_kwargs can't be used"),
        (["--lambda_lr", "-1"], "lambda_lr must be at least 0, got -1.0"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_touches_nothing(change, message, run, capsys):
    before = everything(run)
    assert main(["train", "--output_dir", str(run.path), "--resume", *change]) == 2
    assert message in capsys.readouterr().err
    assert everything(run) == before


def test_max_steps_below_what_was_trained_already(finished, capsys):
    assert main(["train", "--output_dir", str(finished.path), "--resume", "--max_steps", "1"]) == 2
    assert "has already been trained for 2 steps, max_steps can't be 1" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_load_touches_nothing(run, monkeypatch):
    def full_disk(*_):
        raise RuntimeError("the disk broke")

    before = everything(run)
    monkeypatch.setattr(LambdaGRPOTrainer, "_load_optimizer_and_scheduler", full_disk)
    with pytest.raises(RuntimeError, match="the disk broke"):
        main(["train", "--output_dir", str(run.path), "--resume"])
    assert everything(run) == before


def test_a_checkpoint_without_its_optimizer_is_refused_and_touches_nothing(run, capsys):
    """As save_only_model writes them."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (run.path / "checkpoint-1" / name).unlink()
    before = everything(run)
    command = ["train", "--output_dir", str(run.path), "--resume"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "checkpoint-1 can't be resumed from, it lacks optimizer.pt, scheduler.pt, rng_state.pth" in said
    assert "set resume_without_optimizer" in said
    assert everything(run) == before
    with pytest.warns(UserWarning, match="the optimizer starts fresh; sampling continues with other random numbers"):
        assert main([*command, "--resume_without_optimizer"]) == 0
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_after_the_last_step_the_model_is_enough(finished):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (finished.path / "checkpoint-2" / name).unlink()
    (finished.path / "eval/after.json").unlink()
    assert main(["train", "--output_dir", str(finished.path), "--resume"]) == 0
    assert finished.evaluation("after")["step"] == 2


def stop(*_):
    raise KeyboardInterrupt


def test_what_may_change_does(run, monkeypatch):
    changes = [
        "--max_steps", "3", "--save_steps", "3", "--logging_steps", "1", "--learning_rate", "1e-4", "--lambda_lr", "1",
        "--per_device_eval_batch_size", "4", "--report_to", "none",
    ]  # fmt: skip
    first = run.metrics()[0]
    with monkeypatch.context() as patch:  # also after a stop before the next checkpoint
        patch.setattr(LambdaGRPOTrainer, "_generate", stop)
        assert main(["train", "--output_dir", str(run.path), "--resume", *changes]) == 130
    assert resolve_model(str(run.path)) == str(run.path / "checkpoint-1")  # the final model is of an earlier end
    assert main(["train", "--output_dir", str(run.path), "--resume"]) == 0
    assert resolve_model(str(run.path)) == str(run.path)
    assert training_info(str(run.path))["step"] == 3
    assert run.metrics()[0] == first
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert [row["learning_rate"] for row in run.metrics()] == [3e-4, 1e-4, 1e-4]
    assert run.config()["recipe"]["lambda_lr"] == 1.0
    assert run.completions()["step"].to_pylist() == [1] * 16 + [2] * 16 + [3] * 16


def test_more_epochs_train_a_finished_run_further(finished):
    epochs = ["--max_steps", "-1", "--num_train_epochs", str(3 / 2048)]  # 4096 examples, 2 a step
    assert main(["train", "--output_dir", str(finished.path), "--resume", *epochs]) == 0
    assert [row["step"] for row in finished.metrics()] == [1, 2, 3]


def test_a_learning_rate_that_cannot_change_is_refused(run, capsys):
    config = run.config()
    config["recipe"] |= {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 100}
    run.write_config(config)
    before = everything(run)
    assert main(["train", "--output_dir", str(run.path), "--resume", "--learning_rate", "1e-4"]) == 2
    assert "learning_rate can't change on resume with this lr_scheduler_type" in capsys.readouterr().err
    assert everything(run) == before


def test_resume_without_a_good_checkpoint(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"recipe": {"use_cpu": true, "bf16": false}}')
    assert main(["train", "--output_dir", str(tmp_path / "run"), "--resume"]) == 2
    assert "holds no complete checkpoint" in capsys.readouterr().err


def test_an_evaluation_that_is_known_is_not_made_again(finished, tmp_path, monkeypatch):
    known = {**finished.evaluation("before"), "accuracy": 0.125}  # as no evaluation would find it
    made = []
    monkeypatch.setattr(held_out, "evaluate", lambda *a, real=held_out.evaluate, **k: made.append(1) or real(*a, **k))
    run = training.train([], ["--output_dir", str(tmp_path / "new"), *SETTINGS], before=known)
    assert run.evaluation("before") == known
    assert run.evaluation("after")["n"] == 8
    assert len(made) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--eval_size", "9"], "`before` is another evaluation: its n is 8, not 9"),
        (["--task", "chain_sum"], "its task is arithmetic, not chain_sum"),
        (["--temperature", "0.5"], "its sampling is .*'temperature': 1.0"),
        (["--eval_size", "0"], "a run without held-out examples has no evaluation"),
    ],
)
def test_an_evaluation_of_something_else_is_refused(finished, tmp_path, settings, message):
    known = finished.evaluation("before")
    with pytest.raises(UserError, match=message):
        training.train([], ["--output_dir", str(tmp_path / "new"), *SETTINGS, *settings], before=known)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="leave `before` out"):
        training.train([], ["--output_dir", str(finished.path)], resume=True, before=known)
