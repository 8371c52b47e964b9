"""recipes/verl_lambda_grpo.sh: verl's own configuration accepts every key, and both checks pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import verl.trainer.main_ppo as main_ppo_module
from omegaconf import OmegaConf

from lambda_grpo.verl.settings import VerlSettings
from tests.verl.main_ppo import REPOSITORY


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS", str(tmp_path))
    return tmp_path


def composed(*overrides, **environment):
    """What Hydra makes of the script."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "recipes/verl_lambda_grpo.sh", *overrides, "--cfg", "job"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    return OmegaConf.create(done.stdout[done.stdout.index("actor_rollout_ref:") :])


@pytest.mark.parametrize(("nodes", "objective"), [("1", "lambda_grpo"), ("4", "lambda_grpo_paper"), ("1", "dapo")])
def test_both_checks_let_it_through(nodes, objective, monkeypatch, checkpoints):
    config = composed(NNODES=nodes, OBJECTIVE=objective)
    assert VerlSettings.of(config).objective == objective
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (int(nodes), 8)
    assert config.trainer.default_local_dir == str(checkpoints / f"qwen2.5-1.5b-gsm8k-{objective}")
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-1.5B"
    started = []
    monkeypatch.setattr(main_ppo_module, "run_ppo", lambda config, **_: started.append(config))
    main_ppo_module.main(config)
    assert len(started) == 1


def test_keys_behind_it_win():
    assert composed("trainer.total_epochs=1").trainer.total_epochs == 1
