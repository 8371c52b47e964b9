"""Train on completions determined by their prompts, with dynamic sampling and correction, and record the results.

    torchrun --nproc_per_node N -m tests.invariant.scripted_run OUT_DIR ROWS_PER_PROCESS

Runs on any number of processes see the same samples.
"""

import gc
import random
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.trl.setup import config, logged, make_trainer

G = 8
TOKENIZER = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))


class Scripted(LambdaGRPOTrainer):
    """A completion follows from its prompt and its place in the group; what was drawn is written down."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drawn, self.batches, self.gradients = [], [], []

    def _generate_single_turn(self, prompt_ids, images, fields, num_generations, has_tool_images=False):
        first = self.accelerator.process_index * len(prompt_ids)
        completions = [completion(ids, (first + i) % num_generations) for i, ids in enumerate(prompt_ids)]
        self.drawn.append((num_generations, [list(ids) for ids in prompt_ids], completions))
        return completions, None

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.batches.append((inputs, output, list(self._logs["prompt"]), list(self._logs["completion"])))
        return output

    def _measure_lambda(self):
        super()._measure_lambda()
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]))


def completion(prompt_ids, place):
    draw = random.Random(f"{list(prompt_ids)} {place}")
    return [draw.randrange(5, 25) for _ in range(draw.randrange(1, 12))] + [1]


def of(prompt):
    """The group that is drawn for a prompt."""
    return [completion(TOKENIZER(prompt)["input_ids"], place) for place in range(G)]


def rare(prompts, completion_ids, **_):
    """Most groups are all wrong."""
    return [float(sum(ids) % 23 == 0) for ids in completion_ids]


def one_third(completion_ids, **_):
    """Most groups have right and wrong ones."""
    return [float(sum(ids) % 3 == 0) for ids in completion_ids]


def scripted(path, reward, **settings):
    trainer = make_trainer(config(path, num_generations=G, **{"max_steps": 1, **settings}), Scripted, reward)
    trainer.train()
    return trainer


def main(out, rows):
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it trains
    args = config(
        out, objective="edge_grpo", dynamic_sampling=True, max_resample_times=2, num_generations=G,
        reflection_prompt=",", answer_template="#{answer}", per_device_train_batch_size=int(rows),
        gradient_accumulation_steps=1, max_steps=3, optim="sgd", learning_rate=0.005, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = make_trainer(args, Scripted, rare)
    trainer.train()
    batch = trainer.fold.batches["train"]
    found = {
        "samples": [(prompts, completions) for _, _, prompts, completions in trainer.batches],
        "advantages": batch.advantages,
        "is_kept": batch.is_kept,
        "entropies": batch.entropies[batch.token_mask.bool()],
        "gradients": trainer.gradients,
        "logged": {
            key: logged(trainer, key)
            for key in (
                "reward", "num_tokens", "generated_tokens", "dynamic_sampling/extra_groups",
                "dynamic_sampling/missing_groups", "error_correction/reflected", "error_correction/answered",
                "error_correction/replaced",
            )
        },
    }  # fmt: skip
    if trainer.accelerator.is_main_process:
        torch.save(found, Path(out) / "found.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
