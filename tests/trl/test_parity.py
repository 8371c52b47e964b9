"""With λ frozen at 0 the trainer is TRL's own, and the fixed objectives are TRL's loss types."""

import pytest
import torch
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from tests.trl.setup import TRL_SETTINGS, config, logged, make_trainer, parameters, stock_config

TRLS = {"sampler": "trl", "packing": False}  # the same random numbers and rounding


def trajectories(tmp_path, stock, ours):
    peer = make_trainer(stock_config(tmp_path / "stock", **stock), GRPOTrainer)
    peer.train()
    trainer = make_trainer(config(tmp_path / "ours", **TRLS, **ours))
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


THEIRS = {
    "bnpo": {"loss_type": "bnpo"},
    **TRL_SETTINGS,
    "lite_ppo": {"loss_type": "dapo", "scale_rewards": "batch"},
}


@pytest.mark.parametrize("name", THEIRS)
def test_presets_are_trls_with_the_papers_settings(name, tmp_path):
    shared = {"num_iterations": 2, "max_steps": 4}  # every other step is off-policy
    peer, trainer = trajectories(tmp_path, {**THEIRS[name], **shared}, {"objective": name, **shared})
    assert logged(trainer, "loss") == pytest.approx(logged(peer, "loss"), rel=1e-6, abs=1e-9)
    theirs = parameters(peer)
    for key, value in parameters(trainer).items():
        assert (value - theirs[key]).norm() <= 1e-6 * theirs[key].norm()


def test_gmpo_is_trls_trainer(tmp_path):
    """TRL has it apart; here its surrogate takes our own loss, and TRL's brings the rest."""
    shared = {
        "num_iterations": 2, "max_steps": 4, "beta": 0.04, "use_bias_correction_kl": False,
        "optim": "sgd", "learning_rate": 0.01,  # Adam would make steps of its own size out of rounding
    }  # fmt: skip
    peer = make_trainer(config(tmp_path / "stock", GMPOConfig, **shared), GMPOTrainer)
    peer.train()
    trainer = make_trainer(config(tmp_path / "ours", objective="gmpo", **TRLS, **shared))
    trainer.train()
    for key in ("loss", "kl", "clip_ratio/region_mean"):
        assert logged(trainer, key) == pytest.approx(logged(peer, key), rel=1e-5, abs=1e-6)
    theirs = parameters(peer)
    for key, value in parameters(trainer).items():
        assert (value - theirs[key]).norm() <= 1e-6 * theirs[key].norm()
