"""Train with the same λ on all ranks, then with one rank's moved: when λ is compared, and what follows.

torchrun --nproc_per_node N -m tests.invariant.drifting_run OUT_DIR
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch

from tests.invariant.trajectory_run import Injected, reward
from tests.trl.setup import config, make_trainer

STEPS, SAVED, DRIFTS_AFTER = 31, 10, 3


class Counting(Injected):
    """Notes after which steps λ is compared."""

    def __init__(self, *args, **kwargs):
        self.compared = []
        super().__init__(*args, **kwargs)
        self._check_ranks, self.fold.check_ranks = self.fold.check_ranks, self._noted_check

    def _noted_check(self, step):
        self.compared.append(step)
        self._check_ranks(step)


class Drifting(Injected):
    """On rank 1 the last λ moves, by less than float32 could tell."""

    def _step_lambda(self):
        if self.state.global_step == DRIFTS_AFTER and self.accelerator.process_index == 1:
            self.lambda_state._parameter.data.view(-1)[-1] += 1e-12
        super()._step_lambda()


def trainer(out, trainer_class, objective="lambda_grpo"):
    args = config(
        out, objective=objective, lambda_init=0.8, lambda_lr=1e-3, num_generations=4,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=STEPS, save_strategy="steps",
        save_steps=SAVED, ddp_timeout=60,  # where one rank waits for the other, it ends, too
    )  # fmt: skip
    return make_trainer(args, trainer_class, reward)


def main(out):
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it trains
    whole, resumed = trainer(out, Counting), trainer(out, Counting)
    whole.train()
    resumed.train(resume_from_checkpoint=f"{out}/checkpoint-{SAVED}")
    found = {"compared": [whole.compared, resumed.compared]}
    for objective in ("daro", "lambda_grpo"):
        try:
            trainer(out, Drifting, objective).train()
        except RuntimeError as error:
            found[objective] = str(error)
            Path(out, f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
            if objective == "lambda_grpo":
                raise


if __name__ == "__main__":
    main(*sys.argv[1:])
