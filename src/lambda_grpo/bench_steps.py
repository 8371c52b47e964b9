"""Training steps of a trainer in a process of its own, timed by phase: what `bench` runs in pairs.

    python -m lambda_grpo.bench_steps WORKLOAD SIDE WARM STEPS     # prints one JSON object

The policy is the built-in one's architecture, somewhat larger and untrained, so that lengths follow from how many
tokens end a completion.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workload:
    """What is generated and trained on at each step.

    ends: how many of the 258 tokens end a completion.
    """

    prompts: int
    num_generations: int
    prompt_length: int
    ends: int
    max_completion_length: int = 64


WORKLOADS = {
    "short": Workload(8, 8, 24, 16),
    "long": Workload(8, 8, 24, 2),
    "prompt": Workload(2, 16, 512, 2),
}
STOCK = "trl"  # the side that is stock TRL with its dapo loss; any other is an objective in our trainer


def run(workload: Workload, side: str, warm: int, steps: int) -> dict[str, Any]:
    """Medians over steps of seconds by phase, mean length, and peak memory in MiB.

    warm: steps before those that count.
    """
    from trl import GRPOConfig, GRPOTrainer

    from lambda_grpo.backends.trl_trainer import LambdaGRPOConfig, LambdaGRPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "per_device_train_batch_size": workload.prompts * workload.num_generations,
            "gradient_accumulation_steps": 1, "num_generations": workload.num_generations,
            "max_completion_length": workload.max_completion_length, "max_steps": warm + steps,
            "learning_rate": 1e-6, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "seed": 1,
        }  # fmt: skip
        trainer_class: Any = GRPOTrainer if side == STOCK else LambdaGRPOTrainer
        trainer = trainer_class(
            args=GRPOConfig(loss_type="dapo", **common)
            if side == STOCK
            else LambdaGRPOConfig(objective=side, **common),
            model=_model(workload),
            reward_funcs=_reward,
            train_dataset=_prompts(workload),
            processing_class=_tokenizer(),
        )
        phases = _Phases(trainer)
        trainer.train()
        phases.steps.append(phases.now)
        lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history if "reward" in entry]
    seconds = {
        name: statistics.median(step.get(name, 0.0) for step in phases.steps[warm:])
        for name in ("step", "generate", "forward", "backward")
    }
    seconds["rest"] = seconds["step"] - seconds["generate"] - seconds["forward"] - seconds["backward"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "mean_length": statistics.mean(lengths[warm:]), "peak_mib": peak}


class _Phases:
    """Seconds of each step, by wrapping the methods that do its parts."""

    def __init__(self, trainer: Any):
        self.steps: list[dict[str, float]] = []
        self.now: dict[str, float] = {}
        self.start = 0.0
        trainer._generate_single_turn = self._timed("generate", trainer._generate_single_turn)
        trainer._compute_loss = self._timed("forward", trainer._compute_loss)
        trainer.accelerator.backward = self._timed("backward", trainer.accelerator.backward)
        step = trainer.training_step

        def whole(*arguments: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            if self.now:  # what came after the last step: optimiser, logging
                self.now["step"] = start - self.start
                self.steps.append(self.now)
            self.now, self.start = {}, start
            result = step(*arguments, **settings)
            self.now["step"] = time.perf_counter() - start
            return result

        trainer.training_step = whole

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **settings)
            self.now[name] = self.now.get(name, 0.0) + time.perf_counter() - start
            return result

        return timed


def _tokenizer() -> Any:
    from lambda_grpo.base_policy.make import make_tokenizer

    return make_tokenizer()


def _model(workload: Workload) -> Any:
    import torch

    from lambda_grpo.base_policy.make import make_model

    torch.manual_seed(0)
    model = make_model(_tokenizer(), hidden_size=192, layers=4)
    model.generation_config.eos_token_id = list(range(1, 1 + workload.ends))
    return model


def _prompts(workload: Workload) -> Any:
    from datasets import Dataset

    draw = random.Random(0)
    digits = ["".join(draw.choices("0123456789+=", k=workload.prompt_length)) for _ in range(512)]
    return Dataset.from_dict({"prompt": digits})


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids) % 2) for ids in completion_ids]


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    warnings.filterwarnings("ignore")
    print(json.dumps(run(WORKLOADS[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
