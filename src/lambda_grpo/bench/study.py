"""A whole study on the demonstration task, timed against one run of stock TRL.

    python -m lambda_grpo.bench.study ours STEPS SEEDS    # 4 objectives with each seed, side by side
    python -m lambda_grpo.bench.study trl STEPS 1         # one run of stock TRL

Prints one JSON object. With `ours` a run writes everything that `lambda-grpo train` writes, including evaluations and
the report; with `trl` it trains with the same settings and does nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from lambda_grpo.parallel import Call, cores, run_all

OBJECTIVES = ("grpo", "dapo", "dr_grpo", "lambda_grpo")


def study(steps: int, seeds: int, processes: int, threads: int) -> dict[str, Any]:
    """Wall-clock seconds of the study and per run, and the median seconds from a run's start until training begins."""
    with tempfile.TemporaryDirectory() as folder:
        calls = [
            Call(
                "lambda_grpo.bench.study:train_one",
                (f"{folder}/{objective}-{seed}", objective, seed, steps),
                Path(folder, f"{objective}-{seed}.txt"),
            )
            for seed in range(1, seeds + 1)
            for objective in OBJECTIVES
        ]
        start = time.perf_counter()
        outcomes = list(run_all(calls, preload="lambda_grpo.training.preload", processes=processes, threads=threads))
        seconds = time.perf_counter() - start
        for outcome in outcomes:
            if outcome.failure is not None:
                output = calls[outcome.index].output.read_text()[-2000:]
                raise RuntimeError(f"run {outcome.index} of the study fails: {outcome.failure}\n{output}")
    starts = [outcome.result - outcome.started for outcome in sorted(outcomes, key=lambda outcome: outcome.index)]
    return {"run": seconds / len(calls), "study": seconds, "start": statistics.median(starts[processes:] or starts)}


def train_one(output_dir: str, objective: str, seed: int, steps: int) -> float:
    """One run of `lambda-grpo train`. Returns when its training started, as seconds of `time.time()`.

    All runs start from the same policy, so that a run reuses an evaluation before training that another one has made.
    """
    from lambda_grpo.training.run import train

    keys = {"output_dir": output_dir, "objective": objective, "seed": seed, "max_steps": steps}
    known = next(Path(output_dir).parent.glob("*/eval/before.json"), None)
    run = train(
        overrides=[word for key, value in keys.items() for word in (f"--{key}", str(value))],
        before=None if known is None else json.loads(known.read_text()),
    )
    return datetime.fromisoformat(run.config()["started"]).timestamp()


def stock(steps: int) -> dict[str, Any]:
    """Seconds that `trl.GRPOTrainer` with its dapo loss takes for the demonstration's training, and to get started."""
    start = time.perf_counter()
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from lambda_grpo.models import BUILTIN, resolve_model
    from lambda_grpo.tasks import load_task
    from lambda_grpo.training.data import DEFAULT_TRAIN_SIZE, task_dataset, task_reward
    from lambda_grpo.training.recipe import Recipe, read_recipe

    keys = read_recipe(None)
    settings = Recipe.parse({**keys, "output_dir": "unused"}, []).task
    task = load_task(keys["task"], "train", size=settings.task_size or DEFAULT_TRAIN_SIZE, seed=settings.task_seed)
    of_trl = {field.name for field in dataclasses.fields(GRPOConfig)}
    with tempfile.TemporaryDirectory() as folder:
        args = {key: value for key, value in keys.items() if key in of_trl}
        args |= {"loss_type": "dapo", "max_steps": steps, "output_dir": folder, "disable_tqdm": True}
        trainer = GRPOTrainer(
            model=resolve_model(BUILTIN),
            reward_funcs=task_reward(task, None),
            args=GRPOConfig(**args),
            train_dataset=task_dataset(task),
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter() - start
        trainer.train()
    seconds = time.perf_counter() - start
    return {"run": seconds, "study": seconds, "start": started}


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    warnings.filterwarnings("ignore")
    side, steps, seeds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    processes, threads = (int(word) for word in sys.argv[4:6] or (cores(), 1))
    print(json.dumps(stock(steps) if side == "trl" else study(steps, seeds, processes, threads)))
