"""One update of the TRL trainer on the rollouts of one of verl's. Runs in TRL's environment.

    python -m tests.verl.replay_in_trl POLICY ROLLOUTS.json OUT_DIR

ROLLOUTS.json: objective, lambda, and by row, groups in order: prompt and completion (token ids), advantage. It leaves
found.json: the weights by row, loss, dL/dλ and the norm of the policy's gradient.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer


class Replay(LambdaGRPOTrainer):
    """Samples nothing, takes verl's advantages, and keeps what one step had."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        assert [list(ids) for ids in prompt_ids] == [row["prompt"] for row in self.rows]
        return [row["completion"] for row in self.rows], None

    def _gather_batch(self, output):
        # TRL divides by std + 1e-4, verl by std + 1e-6
        output["advantages"] = torch.tensor([row["advantage"] for row in self.rows])
        return super()._gather_batch(output)

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.losses.append(loss.item())
        return loss

    def _measure_lambda(self):
        super()._measure_lambda()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.found = {
            "weights": self.fold.weights(self.fold.batches["train"]).tolist(),
            "loss": sum(self.losses),
            "lambda_grad": self.fold.lambda_grad.item(),
            "grad_norm": torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])).item(),
        }


def main(policy, rollouts, out):
    torch.set_num_threads(1)
    given = json.loads(Path(rollouts).read_text())
    rows = given["rows"]
    group_size = len(rows) // len({row["group"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(policy)
    args = LambdaGRPOConfig(
        output_dir=out, objective=given["objective"], lambda_init=given["lambda"], num_generations=group_size,
        per_device_train_batch_size=len(rows), max_completion_length=16, max_steps=1, shuffle_dataset=False,
        use_cpu=True, bf16=False, gradient_checkpointing=False, max_grad_norm=0.0, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Replay(
        model=AutoModelForCausalLM.from_pretrained(policy),
        reward_funcs=lambda completion_ids, **_: [float(i % 2) for i in range(len(completion_ids))],  # not used
        args=args,
        train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(row["prompt"])} for row in rows[::group_size]]),
        processing_class=tokenizer,
    )
    trainer.rows, trainer.losses = rows, []
    trainer.train()
    (Path(out) / "found.json").write_text(json.dumps(trainer.found))


if __name__ == "__main__":
    main(*sys.argv[1:])
