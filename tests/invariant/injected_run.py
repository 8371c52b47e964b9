"""Train two steps on given completions with each of several objectives, and record the gradients of every step.

    torchrun --nproc_per_node N -m tests.invariant.injected_run OUT_DIR ROWS_PER_PROCESS MICRO_BATCHES OBJECTIVE ...

The completions are a function of the row number in the generated batch alone, so runs on any number of processes see
the same batch. The second step goes over it again, off-policy.
"""

import gc
import random
import sys
from pathlib import Path

import torch

from lambda_grpo.trl import LambdaGRPOTrainer
from tests.trl.setup import config, make_trainer

G, LMAX = 8, 40
# without reflections, whose completions would follow from the rank here: `scripted_run` has them
OWN_SETTINGS = {"edge_grpo": {"error_correction": [0.0, 0.5, 0.5], "answer_template": "#{answer}"}}


class Injected(LambdaGRPOTrainer):
    """Samples nothing; keeps the gradients of each optimiser step."""

    steps: list

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        first = self.accelerator.process_index * len(prompt_ids)
        return [self._completion(first + i) for i in range(len(prompt_ids))], None

    def _completion(self, row):
        draw = random.Random(row)
        ids = [draw.randrange(3, 30) for _ in range(draw.randrange(0, LMAX - 1))]
        return ids if row % 7 == 5 else [*ids, self.eos_token_ids[0]]  # some are truncated

    def _measure_lambda(self):
        super()._measure_lambda()
        policy = torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])
        self.steps.append({"policy": policy.clone(), "lambda": self.fold.lambda_grad.clone()})


def reward(completion_ids, **_):
    return [float(sum(ids) % 3 == 0) + 0.5 * (len(ids) % 2) for ids in completion_ids]


def main(out, rows, micro_batches, *objectives):
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it trains
    gradients = {}
    for name in objectives:
        args = config(
            out, objective=name, lambda_init=0.8, lambda_lr=1.0, num_generations=G, max_completion_length=LMAX,
            per_device_train_batch_size=int(rows) // int(micro_batches),
            gradient_accumulation_steps=int(micro_batches),
            num_iterations=2, max_steps=2, optim="sgd", learning_rate=0.005, lr_scheduler_type="constant",
            mask_truncated_completions=True, **OWN_SETTINGS.get(name, {}),
        )  # fmt: skip
        trainer = make_trainer(args, Injected, reward)
        trainer.steps = []
        trainer.train()
        gradients[name] = trainer.steps
    if trainer.accelerator.is_main_process:
        torch.save(gradients, Path(out) / "gradients.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
