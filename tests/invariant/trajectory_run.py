"""Train five steps on given completions, in several ways, and record λ and the policy after each step.

    torchrun --nproc_per_node N -m tests.invariant.trajectory_run OUT_DIR NAME|NAME=CHECKPOINT ...

The completions follow from the step and the row in the generated batch alone, so runs on any number of processes learn
from the same samples. With a checkpoint, training resumes from it.
"""

import gc
import os
import random
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from lambda_grpo.trl import LambdaGRPOTrainer
from tests.trl.setup import config, make_trainer

ROWS, G, LMAX, STEPS = 24, 8, 40, 5  # three groups of eight: over four processes of six rows, groups straddle ranks
# Each batch is learned from twice: λ's gradient depends on the policy only where that isn't the one that sampled.
TWICE = {"num_iterations": 2}
SAVED = {"save_strategy": "steps", "save_steps": 3}
RUNS = {
    "grpo": {"objective": "grpo", **TWICE},
    "lambda_grpo": {"objective": "lambda_grpo", **TWICE},
    "lambda_grpo_paper": {"objective": "lambda_grpo_paper", **TWICE},
    "saved": {"objective": "lambda_grpo", **SAVED},
    "saved_adam": {
        "objective": "lambda_grpo", "lambda_optimizer": "adam", "lambda_lr": 0.05, "optim": "adamw_torch",
        "learning_rate": 1e-3, **SAVED,
    },
}  # fmt: skip


class Injected(LambdaGRPOTrainer):
    """Samples nothing."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        first = self.accelerator.process_index * len(prompt_ids)
        return [self._completion(first + i) for i in range(len(prompt_ids))], None

    def _completion(self, row):
        draw = random.Random(f"{self.state.global_step}-{row}")
        ids = [draw.randrange(3, 30) for _ in range(draw.randrange(1, LMAX))]
        return ids if row % 7 == 5 else [*ids, self.eos_token_ids[0]]  # some are truncated


class Recorder(TrainerCallback):
    """λ and the policy's parameters, before the first step and after each."""

    def __init__(self, trainer):
        self.trainer, self.lambdas, self.policies = trainer, [], []

    def on_train_begin(self, *args, **kwargs):
        self.lambdas.append(self.trainer.lambda_state.value)
        self.policies.append(torch.cat([self.whole(p).flatten() for p in self.trainer.model.parameters()]))

    def on_step_end(self, *args, **kwargs):
        self.on_train_begin()

    def whole(self, parameter):
        return parameter.detach().clone()


def reward(completion_ids, **_):
    return [float(sum(ids) % 3 == 0) + 0.5 * (len(ids) % 2) for ids in completion_ids]


def train(out, checkpoint=None, recorder_class=Recorder, **settings):
    """λ (1 + steps,) and the policy (1 + steps, parameters)."""
    processes = int(os.environ["WORLD_SIZE"])
    defaults = {
        "lambda_init": 0.8, "lambda_lr": 1.0, "num_generations": G, "max_completion_length": LMAX, "max_steps": STEPS,
        "per_device_train_batch_size": ROWS // processes // 2, "gradient_accumulation_steps": 2,
        "optim": "sgd", "learning_rate": 0.01, "lr_scheduler_type": "constant", "mask_truncated_completions": True,
    }  # fmt: skip
    trainer = make_trainer(config(out, **{**defaults, **settings}), Injected, reward)
    recorder = recorder_class(trainer)
    trainer.add_callback(recorder)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.accelerator.num_processes == processes
    return {
        "lambda": torch.tensor(recorder.lambdas, dtype=torch.float64),
        "policy": torch.stack(recorder.policies),
    }


def main(out, *runs):
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it trains
    found = {}
    for run in runs:
        name, _, checkpoint = run.partition("=")
        found[run] = train(Path(out, name), checkpoint or None, **RUNS[name])
    if os.environ["RANK"] == "0":
        torch.save(found, Path(out, "found.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
