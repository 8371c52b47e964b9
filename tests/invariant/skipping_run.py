"""Train on what the sampler draws, with and without the samples that have no gradient, and record the results.

torchrun --nproc_per_node N -m tests.invariant.skipping_run OUT_DIR
"""

import gc
import sys
from pathlib import Path

import torch

from lambda_grpo.trl import LambdaGRPOTrainer
from tests.trl.setup import config, logged, make_trainer


class Noting(LambdaGRPOTrainer):
    def __init__(self, *args, **kwargs):
        self.gradients, self.rows = [], 0
        super().__init__(*args, **kwargs)
        self._packed_pass, self.packer._packed_pass = self.packer._packed_pass, self._counted_pass

    def _counted_pass(self, model, ids, mask, keep):
        self.rows += int(mask[:, -keep:].any(1).sum())
        return self._packed_pass(model, ids, mask, keep)

    def _measure_lambda(self):
        super()._measure_lambda()
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]))


def easy(prompts, completion_ids, **_):
    """One reward for every second prompt whatever is answered, so that half of the groups have no reward variance.

    0.7: a mean of eight of it is off by rounding in float32.
    """
    return [
        0.7 if sum(map(ord, p)) % 2 else float(sum(ids) % 2) for p, ids in zip(prompts, completion_ids, strict=True)
    ]


def main(out):
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it trains
    found = {}
    for packing in (True, False):  # both sample in the same random numbers
        args = config(
            out, objective="lambda_grpo", packing=packing, optim="sgd", learning_rate=1e-3,
            per_device_train_batch_size=6, gradient_accumulation_steps=2,
        )  # fmt: skip
        trainer = make_trainer(args, Noting, easy)
        trainer.train()
        rows = trainer.accelerator.reduce(torch.tensor(trainer.rows)).item()
        found[packing] = {
            "gradients": trainer.gradients,
            "rows": rows,
            "logged": [logged(trainer, key) for key in ("loss", "entropy", "grad_norm", "reward")],
        }
    if trainer.accelerator.is_main_process:
        torch.save(found, Path(out) / "found.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
