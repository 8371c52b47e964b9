"""λ is saved and loaded with the policy: with the best checkpoint, and on the Hub."""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

from lambda_grpo.cli import main
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.data import task_dataset
from tests.invariant.injected_run import reward
from tests.trl.setup import TASK, config, logged, make_trainer, parameters

SAVING = {
    "objective": "lambda_grpo", "lambda_init": 1.5, "lambda_lr": 5.0, "per_device_train_batch_size": 8,
    "max_completion_length": 16, "save_strategy": "steps", "save_steps": 1,
}  # fmt: skip

# -- the best checkpoint -----------------------------------------------------------------------------------------------


def best_at_first(completion_ids, trainer_state, **_):
    """Falls at each step, whatever the policy does."""
    return [score - 10 * trainer_state.global_step for score in reward(completion_ids)]


@pytest.fixture
def stopped(tmp_path):
    args = config(
        tmp_path, **SAVING, max_steps=6, eval_strategy="steps", eval_steps=1, num_generations_eval=4,
        per_device_eval_batch_size=8, load_best_model_at_end=True, metric_for_best_model="eval_reward",
        greater_is_better=True,
    )  # fmt: skip
    trainer = make_trainer(
        args, reward=best_at_first, callbacks=[EarlyStoppingCallback(2)],
        eval_dataset=task_dataset(TASK).select(range(2)),
    )  # fmt: skip
    trainer.train()
    return trainer


def test_early_stopping_loads_the_best_policy_and_each_checkpoint_has_its_own_lambda(stopped, tmp_path):
    assert stopped.state.global_step == 3
    best = Path(stopped.state.best_model_checkpoint)
    assert best == tmp_path / "checkpoint-1"
    assert len(logged(stopped, "eval_reward")) == 3
    saved = load_file(best / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in parameters(stopped).items() if name in saved)
    before = logged(stopped, "lambda")  # at each step, before it moves
    assert [lambda_in(tmp_path / f"checkpoint-{step}") for step in (1, 2)] == before[1:]
    assert len(set(before)) == 3


def test_lambda_is_the_best_policys(stopped):
    assert stopped.lambda_state.value == lambda_in(stopped.state.best_model_checkpoint)


def lambda_in(checkpoint):
    return json.loads((Path(checkpoint) / LAMBDA_STATE_FILE).read_text())["value"]


# -- the Hub -----------------------------------------------------------------------------------------------------------


class Hub:
    """What the Trainer calls of `HfApi`: keeps a copy of all that is uploaded, as it was then."""

    def __init__(self, directory):
        self.directory, self.uploads = directory, []

    def create_repo(self, repo_id, **_):
        return SimpleNamespace(repo_id=f"someone/{repo_id}")

    def upload_folder(self, repo_id, folder_path, commit_message, path_in_repo="", ignore_patterns=None, **_):
        assert repo_id == "someone/out"
        files = [str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*") if p.is_file()]
        for name in filter_repo_objects(files, ignore_patterns=ignore_patterns):
            copy = self.directory / str(len(self.uploads)) / path_in_repo / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, copy)
        self.uploads.append((commit_message, self.directory / str(len(self.uploads)) / path_in_repo))
        done = Future()
        done.set_result(None)
        return done


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def pushed(path, strategy):
    args = config(path / "out", **SAVING, max_steps=2, push_to_hub=True, hub_strategy=strategy)
    trainer = make_trainer(args, reward=reward)
    trainer.train()
    return trainer


def assert_holds_policy(folder, trainer):
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in parameters(trainer).items() if name in saved)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_a_push_has_the_policy_and_its_card_and_the_checkpoint_its_lambda(strategy, hub, tmp_path):
    trainer = pushed(tmp_path, strategy)
    by_message = dict(hub.uploads)
    folder = by_message["Training in progress, step 2"]
    assert_holds_policy(folder, trainer)
    assert (folder / "README.md").is_file()
    if strategy == "checkpoint":
        checkpoint = by_message["Training in progress, step 2, checkpoint"]
        assert checkpoint.name == "last-checkpoint"
        assert_holds_policy(checkpoint, trainer)
        assert lambda_in(checkpoint) == trainer.lambda_state.value != 1.5
    else:
        assert list(by_message) == ["Training in progress, step 1", "Training in progress, step 2"]


def test_what_is_pushed_at_every_save_has_its_lambda(hub, tmp_path):
    trainer = pushed(tmp_path, "every_save")
    values = [lambda_in(folder) for _, folder in hub.uploads]
    assert values == [logged(trainer, "lambda")[1], trainer.lambda_state.value]


def test_a_push_at_the_end_has_its_lambda(hub, tmp_path):
    trainer = pushed(tmp_path, "end")
    assert hub.uploads == []
    trainer.push_to_hub()
    ((message, folder),) = hub.uploads
    assert message == "End of training"
    assert_holds_policy(folder, trainer)
    assert (folder / "README.md").is_file()
    assert lambda_in(folder) == trainer.lambda_state.value != 1.5


def test_a_run_that_is_pushed_stays_a_run(hub, tmp_path):
    """Samples and metrics aren't for the hub."""
    run = tmp_path / "run"
    quick = ["--per_device_train_batch_size", "16", "--max_completion_length", "8", "--save_steps", "1"]
    push = ["--push_to_hub", "--hub_model_id", "out"]
    assert main(["train", "--output_dir", str(run), "--max_steps", "1", "--eval_size", "8", *quick, *push]) == 0
    assert Run.open(run).config()["objective"]["name"] == "lambda_grpo"
    message, folder = hub.uploads[-1]
    assert message == "End of training"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", LAMBDA_STATE_FILE} <= {
        path.name for path in folder.iterdir()
    }
    assert not [path.name for path in folder.iterdir() if path.is_dir() or path.name == "metrics.jsonl"]
    assert "| arithmetic | after training (step 1) | 8 |" in (folder / "README.md").read_text()
    assert main(["train", "--output_dir", str(run), "--resume", "--max_steps", "2"]) == 0
    assert len(Run.open(run).metrics()) == 2
