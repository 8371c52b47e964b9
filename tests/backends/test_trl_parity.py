"""With λ frozen at 0 the trainer is TRL's own, and the fixed objectives are TRL's loss types."""

import pytest
import torch
from trl import GRPOTrainer

from tests.backends.trl_setup import config, logged, make_trainer, parameters, stock_config


def trajectories(tmp_path, stock, ours):
    peer = make_trainer(stock_config(tmp_path / "stock", **stock), GRPOTrainer)
    peer.train()
    trainer = make_trainer(config(tmp_path / "ours", **ours))
    trainer.train()
    return peer, trainer


@pytest.mark.parametrize("num_generations", [2, 4, 8, 16])
def test_lambda_frozen_at_0_is_dapo_bit_for_bit(num_generations, tmp_path):
    shared = {"num_generations": num_generations, "max_grad_norm": 0.2}
    peer, trainer = trajectories(
        tmp_path, {"loss_type": "dapo", **shared}, {"objective": "lambda_grpo", "lambda_lr": 0.0, **shared}
    )
    for key in ("loss", "reward", "grad_norm", "entropy", "completions/mean_length"):
        assert logged(trainer, key) == logged(peer, key)
    theirs = parameters(peer)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(trainer).items())
    assert logged(trainer, "weight_min") == logged(trainer, "weight_max") == [1.0] * 3
    assert logged(trainer, "lambda") == [0.0] * 3
    assert any(grad != 0.0 for grad in logged(trainer, "lambda_grad"))  # frozen, but still measured


@pytest.mark.parametrize(
    "shared",
    [
        {},
        {"beta": 0.04},
        {"num_iterations": 2, "max_steps": 4},
        {"steps_per_generation": 4, "max_steps": 4},
        {"mask_truncated_completions": True, "max_completion_length": 12},
    ],
    ids=["plain", "kl", "iterations", "windows", "truncated"],
)
@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo"])
def test_fixed_objectives_are_trls_loss_types(name, shared, tmp_path):
    peer, trainer = trajectories(
        tmp_path,
        {"loss_type": name, "scale_rewards": "none" if name == "dr_grpo" else "group", **shared},
        {"objective": name, **shared},
    )
    assert logged(trainer, "loss") == pytest.approx(logged(peer, "loss"), rel=1e-6, abs=1e-9)
    theirs = parameters(peer)
    for key, value in parameters(trainer).items():
        assert (value - theirs[key]).norm() <= 1e-6 * theirs[key].norm()
