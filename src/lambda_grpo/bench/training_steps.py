"""Training steps of one trainer, timed by phase; the benchmarks run pairs of them, each in its own process.

python -m lambda_grpo.bench.training_steps WORKLOAD SIDE     # prints one JSON object
"""

from __future__ import annotations

import functools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lambda_grpo.bench.workloads import WORKLOADS, Workload, make_policy, make_prompts, make_tokenizer

STOCK = "trl"  # the side that is stock TRL with its dapo loss; any other side names an objective of our trainer


def run(workload: Workload, side: str) -> dict[str, Any]:
    """Medians over steps of the seconds by phase and of the operations needed, mean length, and peak memory in MiB."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer

    micro_batch = workload.micro_batch or workload.completions
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": workload.completions // micro_batch,
            "num_generations": workload.num_generations, "max_completion_length": workload.max_completion_length,
            "max_steps": workload.warmup_steps + workload.steps,
            "learning_rate": 1e-6, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "seed": 1,
        }  # fmt: skip
        trainer_class: Any = GRPOTrainer if side == STOCK else LambdaGRPOTrainer
        trainer = trainer_class(
            args=GRPOConfig(loss_type="dapo", **common)
            if side == STOCK
            else LambdaGRPOConfig(objective=side, **common),
            model=make_policy(workload),
            reward_funcs=_reward,
            train_dataset=Dataset.from_dict({"prompt": make_prompts(workload, 512)}),
            processing_class=make_tokenizer(),
        )
        timer = _PhaseTimer(trainer)
        trainer.train()
        timer.end_step()
        lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history if "reward" in entry]
    seconds = {
        name: statistics.median(step.get(name, 0.0) for step in timer.steps[workload.warmup_steps :])
        for name in ("step", "generate", "forward", "backward")
    }
    seconds["rest"] = seconds["step"] - seconds["generate"] - seconds["forward"] - seconds["backward"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds,
        "operations": statistics.median(step["operations"] for step in timer.steps[workload.warmup_steps :]),
        "mean_length": statistics.mean(lengths[workload.warmup_steps :]),
        "peak_mib": peak,
    }


class _PhaseTimer:
    """Times the phases of each step by wrapping the trainer's methods."""

    def __init__(self, trainer: Any):
        self.steps: list[dict[str, float]] = []
        self.current: dict[str, float] = {}
        self.start, self.micro_batches = 0.0, 0
        generate = self._timed("generate", trainer._generate_single_turn)

        def generate_and_count(prompt_ids: list[list[int]], *rest: Any, **settings: Any) -> Any:
            result = generate(prompt_ids, *rest, **settings)
            self.current["operations"] = self.current.get("operations", 0.0) + operations(
                trainer.model, prompt_ids, result[0]
            )
            return result

        trainer._generate_single_turn = generate_and_count
        trainer._compute_loss = self._timed("forward", trainer._compute_loss)
        trainer.accelerator.backward = self._timed("backward", trainer.accelerator.backward)
        step = trainer.training_step

        def timed_step(*arguments: Any, **settings: Any) -> Any:
            if self.micro_batches % trainer.args.gradient_accumulation_steps == 0:
                if self.micro_batches > 0:
                    self.end_step()
                self.current, self.start = {}, time.perf_counter()
            self.micro_batches += 1
            return step(*arguments, **settings)

        trainer.training_step = timed_step

    def end_step(self) -> None:
        """End a step only here, so that it includes what follows its last pass: optimizer, logging."""
        self.current["step"] = time.perf_counter() - self.start
        self.steps.append(self.current)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **settings)
            self.current[name] = self.current.get(name, 0.0) + time.perf_counter() - start
            return result

        return timed


def operations(model: Any, prompt_ids: list[list[int]], completion_ids: list[list[int]]) -> float:
    """Floating-point operations of a forward over each different prompt and each completion, without padding.

    Sampling needs as many, since it reads each token once, too. A backward needs twice as many.
    """
    config = model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and ".layers." in name)
    scores = 2 * config.num_hidden_layers * config.num_attention_heads * model.model.layers[0].self_attn.head_dim
    different = {tuple(prompt): len(prompt) for prompt in prompt_ids}
    total = sum(2 * matrices * n + scores * n * n for n in different.values())  # half of n² pairs, two products each
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        n = len(completion)
        total += 2 * n * (matrices + config.hidden_size * config.vocab_size)
        total += 2 * scores * n * (len(prompt) + n / 2)
    return total


@functools.cache  # it depends on the machine alone
def matrix_rate() -> float:
    """Floating-point operations per second that this machine reaches in products of large float32 matrices."""
    import torch

    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    products = [lambda: a @ b]
    if torch.backends.mkldnn.is_available():  # faster than torch's own choice on some processors
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    best = float("inf")
    for product in products * 8:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(ids) % 997 / 997 for ids in completion_ids]  # all different, so that every completion has an advantage


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    warnings.filterwarnings("ignore")
    name, side, warmup_steps, steps = sys.argv[1:]
    chosen = replace(WORKLOADS[name], warmup_steps=int(warmup_steps), steps=int(steps))
    print(json.dumps(run(chosen, side)))
