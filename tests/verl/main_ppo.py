"""Starts verl's own `main_ppo` in a process of its own, as a user does, on the tiny policy."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GROUP, PROMPTS = 4, 4  # responses of a prompt, prompts of a batch

FP32 = ["param_dtype", "reduce_dtype", "buffer_dtype"]
SETTINGS = {
    "trainer.v1.trainer_mode": "lambda_grpo",
    "algorithm.adv_estimator": "grpo",
    "data.train_batch_size": PROMPTS,
    "data.max_prompt_length": 16,
    "data.max_response_length": 16,
    "data.dataloader_num_workers": 0,
    "data.filter_overlong_prompts": False,
    "actor_rollout_ref.model.use_remove_padding": False,
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "+actor_rollout_ref.model.override_config.attn_implementation": "eager",
    "actor_rollout_ref.rollout.name": "cpu",
    "actor_rollout_ref.rollout.n": GROUP,
    "actor_rollout_ref.rollout.agent.num_workers": 1,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,  # one server for both workers
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 2,
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size": PROMPTS,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2,
    "actor_rollout_ref.actor.use_torch_compile": False,
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
    **{f"+actor_rollout_ref.actor.fsdp_config.mixed_precision.{name}": "fp32" for name in FP32},
    "actor_rollout_ref.actor.optim.lr": 3e-3,
    "reward.num_workers": 1,
    "reward.custom_reward_function.path": str(REPOSITORY / "tests/verl/tiny.py"),
    "reward.custom_reward_function.name": "compute_score",
    "trainer.n_gpus_per_node": 2,
    "trainer.device": "cpu",
    "trainer.logger": "[console,file]",
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
    "trainer.resume_mode": "auto",
    "ray_kwargs.ray_init.num_cpus": 32,
    "+ray_kwargs.ray_init.num_gpus": 2,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
}


def main_ppo(policy: Path, out: Path, settings=None, environment=None, timeout=400):
    """Run main_ppo.

    out: gets checkpoints/, record/ and metrics.jsonl.

    Returns:
        the finished process, with what it printed.
    """
    (out / "record").mkdir(parents=True, exist_ok=True)
    given = {
        **SETTINGS,
        "data.train_files": policy / "train.parquet",
        "data.val_files": policy / "train.parquet",
        "actor_rollout_ref.model.path": policy,
        "trainer.default_local_dir": out / "checkpoints",
        **(settings or {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *(f"{key}={value}" for key, value in given.items())],
        cwd=out,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "VERL_USE_EXTERNAL_PLUGINS": "auto",
            "VERL_USE_EXTERNAL_MODULES": "tests.verl.cpu_engine",
            "VERL_PLATFORM": "cpu",
            "VERL_ENGINE_DEVICE": "cuda",  # the FSDP engine is registered for cuda alone
            "VERL_FILE_LOGGER_PATH": str(out / "metrics.jsonl"),
            "RECORD_DIR": str(out / "record"),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **(environment or {}),
        },
    )


def metrics(out: Path) -> dict[int, dict]:
    """What a run logged, by step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["data"] for line in lines}
