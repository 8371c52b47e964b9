"""The driver's part of a step, without the workers: what it does with the numbers that come back."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from lambda_grpo import PRESETS, LambdaState
from lambda_grpo.objective.lambda_file import save_lambda
from lambda_grpo.verl.loss import GRADIENT, SHARE
from lambda_grpo.verl.trainer import LambdaGRPOVerlTrainer


@pytest.fixture
def trainer():
    made = object.__new__(LambdaGRPOVerlTrainer)
    made.objective, made.lambda_state = PRESETS["lambda_grpo"], LambdaState(0.5, lr=1.0)
    made._lambda = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    made.config = OmegaConf.create({"actor_rollout_ref": {"actor": {"strategy": "torchtitan"}}, "trainer": {}})
    return made


BATCH = SimpleNamespace(penalty_gradient=lambda objective, lambda_: torch.zeros_like(lambda_))


def came_back(gradient, share=1.0):
    return {f"actor/{GRADIENT}_0": gradient, f"actor/{SHARE}": share}


def test_lambda_takes_a_step(trainer):
    metrics = came_back(0.25)
    trainer._step_lambda(BATCH, metrics)
    assert metrics == {"lambda": 0.5, "lambda_grad": 0.25}
    assert trainer.lambda_state.value == 0.25


@pytest.mark.parametrize("gradient", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_lambda(trainer, gradient, caplog):
    """verl skips such an update of the policy, and the run continues."""
    metrics = came_back(gradient, share=math.nan)
    with caplog.at_level(logging.WARNING):
        trainer._step_lambda(BATCH, metrics)
    assert not math.isfinite(metrics["lambda_grad"])
    assert trainer.lambda_state.value == 0.5
    assert trainer.lambda_state.state_dict()["steps"] == 1
    assert f"the gradient of λ is {gradient}: λ stays 0.5" in caplog.text


def test_metrics_that_were_gathered_in_another_way_end_the_run(trainer):
    with pytest.raises(RuntimeError, match=r"verl's 'torchtitan' engine sums a mini-batch's tokens to 4\.0 of them"):
        trainer._step_lambda(BATCH, came_back(0.25, share=4.0))
    assert trainer.lambda_state.value == 0.5


@pytest.mark.parametrize("mode", ["auto", "resume_path"])
def test_lambda_is_restored_from_where_verl_resumes(trainer, mode, tmp_path, monkeypatch):
    folder = tmp_path / "global_step_7"
    folder.mkdir()
    trainer.config.trainer = {
        "resume_mode": mode,
        "resume_from_path": str(folder) if mode == "resume_path" else None,
        "default_local_dir": str(tmp_path) if mode == "auto" else "elsewhere",
    }
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 7))
    with pytest.raises(FileNotFoundError, match="this checkpoint wasn't written with a learned λ"):
        trainer._load_checkpoint()
    save_lambda(folder, "lambda_grpo", LambdaState(-1.5))
    trainer._load_checkpoint()
    assert trainer.lambda_state.value == -1.5


def test_a_run_from_scratch_reads_nothing(trainer, monkeypatch):
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 0))
    trainer._load_checkpoint()
    assert trainer.lambda_state.value == 0.5
