"""A resumed run equals the uninterrupted one bit by bit, or it is refused, or it warns of what is initialised again."""

import json
import shutil
import warnings

import pytest
import torch

from lambda_grpo.errors import UserError
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE
from tests.invariant.injected_run import reward
from tests.trl.setup import config, logged, make_trainer, parameters

SMALL = {
    "objective": "lambda_grpo", "lambda_lr": 1.0, "per_device_train_batch_size": 8, "num_generations": 4,
    "gradient_accumulation_steps": 1, "max_completion_length": 12, "save_strategy": "steps", "save_steps": 1,
    "lr_scheduler_type": "linear",
}  # fmt: skip


def trained(path, checkpoint=None, **settings):
    trainer = make_trainer(config(path, **{**SMALL, **settings}), reward=reward)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(path / f"checkpoint-{checkpoint}"))
    return trainer


def assert_same(resumed, whole):
    assert resumed.lambda_state.state_dict() == whole.lambda_state.state_dict()
    for key in ("loss", "learning_rate", "grad_norm", "entropy", "reward", "completions/mean_length", "lambda_grad"):
        assert logged(resumed, key) == logged(whole, key), key
    theirs = parameters(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(resumed).items())


# -- between two steps of one generated batch --------------------------------------------------------------------------

BATCHES = {
    "both": {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 4, "beta": 0.04, "log_completions": True},
    "steps across generations": {
        "steps_per_generation": 2, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "max_steps": 2,
    },
    "in the second epoch": {
        "gradient_accumulation_steps": 8, "per_device_train_batch_size": 16, "num_iterations": 2, "max_steps": 6,
        "max_completion_length": 4, "save_steps": 5,
    },
    "fresh prompts": {"objective": "dapo_full", "num_iterations": 2, "max_steps": 3},
    "entropies": {"objective": "edge_grpo", "steps_per_generation": 2, "max_steps": 2, "error_correction": [0, 0, 0]},
    "TRL's sampler": {"steps_per_generation": 3, "max_steps": 3, "sampler": "trl", "packing": False},
}  # fmt: skip


@pytest.mark.parametrize("name", BATCHES)
def test_within_a_generated_batch(name, tmp_path):
    settings = BATCHES[name]
    whole = trained(tmp_path, **settings)
    within = [path.parent.name for path in tmp_path.glob("checkpoint-*/generated_batch_0.pt")]
    step = max({int(name.removeprefix("checkpoint-")) for name in within} - {settings["max_steps"]})
    assert_same(trained(tmp_path, step, **settings), whole)


def test_a_checkpoint_between_generations_holds_no_batch(tmp_path):
    trained(tmp_path, num_iterations=2, max_steps=2, save_steps=2)
    assert not list(tmp_path.glob("checkpoint-2/generated_batch*"))


def test_another_batch_is_refused_within_one(tmp_path):
    trained(tmp_path, num_iterations=2, max_steps=3)
    with pytest.raises(UserError, match="within a generated batch, with num_iterations 2, not 3") as error:
        trained(tmp_path, 3, num_iterations=3, max_steps=6)
    assert f"resume from {tmp_path / 'checkpoint-2'}" not in str(error.value)  # for three it lies within one, too
    with pytest.raises(UserError, match="per_device_train_batch_size 8, not 16") as error:
        trained(tmp_path, 3, num_iterations=2, max_steps=6, per_device_train_batch_size=16)
    assert f"resume from {tmp_path / 'checkpoint-2'}" in str(error.value)


def test_without_its_batch_it_is_refused_and_the_last_good_one_named(tmp_path):
    """As it was written by an earlier version."""
    settings = {"num_iterations": 2, "max_steps": 4}
    trained(tmp_path, **settings)
    (tmp_path / "checkpoint-3/generated_batch_0.pt").unlink()
    with pytest.raises(UserError, match=r"it lacks generated_batch_0\.pt, the generated batch that it was") as error:
        trained(tmp_path, 3, **settings)
    assert f"resume from {tmp_path / 'checkpoint-4'} " in str(error.value)
    with pytest.warns(
        UserWarning, match="lacks generated_batch_0.pt: completions of its generated batch are generated"
    ):
        resumed = trained(tmp_path, 3, resume_without_optimizer=True, **settings)
    assert resumed.state.global_step == 4
    assert resumed._step == 4  # the next batch is generated where it would have been


# -- what a checkpoint lacks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"), max_steps=4)


@pytest.fixture
def folder(whole, tmp_path):
    for step in (2, 4):
        shutil.copytree(whole.run_directory / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    return tmp_path


PARTS = {"optimizer.pt": "the optimizer starts fresh", "scheduler.pt": "the optimizer starts fresh",
         "rng_state.pth": "sampling continues with other random numbers"}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_refused_by_name_and_taken_on_a_flag(part, folder, whole):
    (folder / "checkpoint-2" / part).unlink()
    with pytest.raises(UserError, match=f"it lacks {part}") as error:
        trained(folder, 2, max_steps=4)
    assert f"resume from {folder / 'checkpoint-4'}" in str(error.value)
    assert "set resume_without_optimizer" in str(error.value)
    assert "\n" not in str(error.value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed = trained(folder, 2, max_steps=4, resume_without_optimizer=True)
    said = [str(one.message) for one in caught if "lacks" in str(one.message)]
    assert said == [f"{folder / 'checkpoint-2'} lacks {part}: {PARTS[part]}"]
    assert logged(resumed, "learning_rate") == logged(whole, "learning_rate")  # it continues at the checkpoint's
    assert logged(resumed, "lambda")[:3] == logged(whole, "lambda")[:3]
    assert resumed.state.global_step == 4


def test_a_damaged_last_checkpoint_does_not_count_for_true(folder, whole):
    (folder / "checkpoint-4/trainer_state.json").unlink()  # it is written last
    trainer = make_trainer(config(folder, **SMALL, max_steps=4), reward=reward)
    trainer.train(resume_from_checkpoint=True)
    assert_same(trainer, whole)


def test_true_refuses_a_last_checkpoint_without_its_optimizer(folder):
    (folder / "checkpoint-4/optimizer.pt").unlink()
    trainer = make_trainer(config(folder, **SMALL, max_steps=6), reward=reward)
    with pytest.raises(UserError, match=r"it lacks optimizer\.pt") as error:
        trainer.train(resume_from_checkpoint=True)
    assert f"resume from {folder / 'checkpoint-2'}" in str(error.value)


def test_lambda_is_never_left_out(folder):
    (folder / "checkpoint-2" / LAMBDA_STATE_FILE).unlink()
    with pytest.raises(UserError, match="wasn't written with a learned λ"):
        trained(folder, 2, max_steps=4, resume_without_optimizer=True)


def test_save_only_model_is_said_at_the_start_and_not_resumed(tmp_path, whole, caplog):
    trained(tmp_path, save_only_model=True, max_steps=4)
    assert "save_only_model: checkpoints hold no optimizer, this run can't be resumed" in caplog.text
    assert (
        json.loads((tmp_path / "checkpoint-2" / LAMBDA_STATE_FILE).read_text())["value"] == logged(whole, "lambda")[2]
    )
    with pytest.raises(
        UserError, match=r"it lacks optimizer\.pt, scheduler\.pt, rng_state\.pth \(save_only_model\?\): set resume_"
    ):
        trained(tmp_path, 2, save_only_model=True, max_steps=4)
    with pytest.warns(
        UserWarning, match="lacks optimizer.pt, scheduler.pt, rng_state.pth: the optimizer starts fresh; "
    ):
        resumed = trained(tmp_path, 2, save_only_model=True, max_steps=4, resume_without_optimizer=True)
    assert logged(resumed, "learning_rate") == logged(whole, "learning_rate")
