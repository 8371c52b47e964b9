"""λ-GRPO on a Ray cluster: Ray Train starts the processes, the trainer is the same as anywhere.

pip install '.[trl]' 'ray[train]', then: python examples/ray_train.py [STEPS]
"""

import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from ray.train import Checkpoint, RunConfig, ScalingConfig, report
from ray.train.torch import TorchTrainer
from transformers.trainer_utils import get_last_checkpoint

from lambda_grpo.models import resolve_model
from lambda_grpo.tasks import load_task
from lambda_grpo.training.data import task_dataset, task_reward
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer


def train(settings: dict) -> None:
    """What each worker does. Ray has set up the process group, and accelerate finds it."""
    gpu, task = torch.cuda.is_available(), load_task("arithmetic", size=64)
    args = LambdaGRPOConfig("run", per_device_train_batch_size=16, bf16=gpu, use_cpu=not gpu, **settings)
    trainer = LambdaGRPOTrainer(resolve_model("builtin"), task_reward(task), args, task_dataset(task))
    trainer.train()
    lambdas = gather_object([trainer.lambda_state.value])  # every worker's
    first = trainer.is_world_process_zero()
    report({"lambda": lambdas}, Checkpoint.from_directory(get_last_checkpoint("run")) if first else None)


if __name__ == "__main__":
    settings = {"objective": "lambda_grpo", "max_steps": int(sys.argv[1]) if len(sys.argv) > 1 else 5}
    workers = ScalingConfig(num_workers=2, use_gpu=torch.cuda.is_available())
    results = RunConfig(storage_path=str(Path("ray_results").resolve()))  # shared by all machines of a cluster
    result = TorchTrainer(train, train_loop_config=settings, scaling_config=workers, run_config=results).fit()
    print(result.metrics, result.checkpoint.path)
