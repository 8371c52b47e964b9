"""An optimiser step of the trainer is one `policy_loss` over the step's samples, whatever they contain.

`policy_loss` is checked against the papers elsewhere. Here: tool tokens, truncation, several generations in one step,
evaluation, and a loss scale.
"""

import random
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer

from lambda_grpo import policy_loss, response_weights
from lambda_grpo.training.data import task_dataset
from tests.invariant.injected_run import Injected, reward
from tests.trl.setup import TASK, config, logged, make_trainer

TOOL_SHARE = 0.4
CASES = {
    "tool tokens": {},
    "tool tokens and truncation": {"mask_truncated_completions": True},
    "two generations in one step": {"steps_per_generation": 2},
}


class WithTools(GRPOTrainer):
    """Some of the given completions' tokens come from a tool."""

    def _generate(self, prompts):
        output = list(super()._generate(prompts))
        draw = random.Random(1)
        output[2] = [[int(draw.random() > TOOL_SHARE) for _ in ids] for ids in output[1]]
        self.by_policy = output[2]
        return tuple(output)


def trainer_class(has_tools):
    """The trainer of this project over TRL's, with or without tools in between."""
    bases = (Injected, WithTools) if has_tools else (Injected,)

    class Compared(*bases):
        def _compute_loss(self, model, inputs):
            rows = {key: value for key, value in inputs.items() if torch.is_tensor(value)}
            self.window.append((rows, self.fold.batches[self._mode]))
            return super()._compute_loss(model, inputs)

        def _measure_lambda(self):
            super()._measure_lambda()
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            ours = torch.cat([p.grad.flatten() for p in parameters])
            lambda_ = torch.tensor(self.lambda_state.value, dtype=torch.float64, requires_grad=True)
            loss = step_loss(self, lambda_)
            grads = torch.autograd.grad(loss, [*parameters, lambda_], allow_unused=True)
            theirs = torch.cat([g.flatten() for g in grads[:-1]])
            self.errors.append(((ours - theirs).norm() / theirs.norm()).item())
            if self.objective.preference.learnable:
                assert self.fold.lambda_grad.item() == pytest.approx(grads[-1].item(), rel=1e-4)
            self.window.clear()

    return Compared


def step_loss(trainer, lambda_):
    """`policy_loss` over what has gone into the step so far, with its own tokens counted."""
    masks = [rows["completion_mask"] * rows.get("tool_mask", 1) for rows, _ in trainer.window]
    count, tokens, total = sum(map(len, masks)), sum(mask.sum() for mask in masks), 0.0
    for (rows, batch), mask in zip(trainer.window, masks, strict=True):
        f = response_weights(
            batch.lengths, batch.group_ids, trainer.objective, lambda_,
            advantages=batch.advantages, entropies=batch.entropies,
            completion_ids=batch.completion_ids, token_mask=batch.token_mask,
        )[rows["sample_index"]]  # fmt: skip
        Z = {
            "batch": tokens.expand(len(f)),
            "group": count * batch.lengths.view(-1, 8).mean(1)[batch.group_ids[rows["sample_index"]]],
            "responses": torch.full((len(f),), count),
            "constant": torch.full((len(f),), count * trainer.max_completion_length),
            "micro_batch": (len(masks) * mask.sum()).expand(len(f)),
        }[trainer.objective.normalizer]
        ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], 1)
        attention = torch.cat([rows["prompt_mask"], rows["completion_mask"]], 1)
        logps = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, attention, rows["completion_ids"].size(1)
        )[0]
        old = rows.get("old_per_token_logps", logps.detach())
        total = total + policy_loss(
            logps, old, rows["advantages"], mask, rows["sample_index"], trainer.objective,
            weights=f, normalizer=Z.double().clamp(min=1),
        ).loss  # fmt: skip
    return total


def train(path, name, has_tools, **settings):
    args = config(
        path, objective=name, lambda_init=0.8, lambda_lr=0.0, optim="sgd", learning_rate=0.005, max_steps=2,
        **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, **settings},
    )  # fmt: skip
    trainer = make_trainer(args, trainer_class(has_tools), reward)
    trainer.steps, trainer.window, trainer.errors = [], [], []
    trainer.train()
    return trainer


NAMES = [
    "lambda_grpo", "lambda_grpo_paper", "grpo", "luspo", "sapo", "cispo", "fspo", "bnpo",
    "lambda_grpo_prm", "grpo_lambda", "grpo_lambda_tail", "edge_grpo",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_one_policy_loss(case, name, tmp_path):
    settings = {**CASES[case], "error_correction": [0.0, 0.0, 0.0]}  # the completions stay as they are given
    trainer = train(tmp_path, name, has_tools="tool" in case, **settings)
    assert len(trainer.errors) == 2
    assert max(trainer.errors) < 5e-5  # two orders of float32 sums
    if "tool" in case:  # a tool's tokens have no length
        assert trainer.fold.batches["train"].lengths.tolist() == [sum(row) for row in trainer.by_policy]


@pytest.mark.parametrize(
    "name", ["lambda_grpo", "lambda_grpo_paper", "gspo", "sapo", "gmpo", "luspo", "delta_l", "lambda_grpo_prm"]
)
def test_the_loss_of_an_evaluation_is_policy_loss(name, tmp_path):
    """Of groups of another size, in one piece, whatever training accumulates."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 4, "per_device_eval_batch_size": 8}
    args = config(tmp_path, objective=name, lambda_init=0.8, lambda_lr=0.0, max_steps=1, learning_rate=0.0, **settings)
    losses = []

    class Evaluated(Injected):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            if not self.model.training:
                batch = self.fold.batches["eval"]
                assert batch.group_ids.tolist() == [0] * 4 + [1] * 4
                self.window = [(inputs, batch)]
                mask = inputs["completion_mask"]
                ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
                attention = torch.cat([inputs["prompt_mask"], mask], 1)
                logps = GRPOTrainer._get_per_token_logps_and_entropies(self, model, ids, attention, mask.size(1))[0]
                whole = policy_loss(
                    logps, logps, inputs["advantages"], mask, batch.group_ids, self.objective, 0.8,
                    max_completion_length=self.max_completion_length, completion_ids=inputs["completion_ids"],
                )  # fmt: skip
                losses.append((loss.item(), whole.loss.item()))
            return loss

    trainer = make_trainer(args, Evaluated, reward, eval_dataset=task_dataset(TASK).select(range(4)))
    trainer.steps = []
    trainer.train()
    assert len(losses) == 2
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)
    assert len(logged(trainer, "eval_loss")) == 1


def test_a_loss_scale_leaves_the_gradient_of_lambda_as_it_is_and_a_skipped_step_leaves_lambda(tmp_path):
    """What fp16 does, without a GPU: the loss is scaled by 1024, and the optimiser's step is left out."""

    class Scaled(Injected):
        def _measure_lambda(self):
            super()._measure_lambda()
            plain = self.fold.lambda_grad.clone()
            self.fold.lambda_.grad *= 1024
            scaler, self.accelerator.scaler = self.accelerator.scaler, SimpleNamespace(get_scale=lambda: 1024.0)
            super()._measure_lambda()
            self.accelerator.scaler = scaler
            assert self.fold.lambda_grad.item() == pytest.approx(plain.item(), rel=1e-6)

        def _step_lambda(self):
            before = self.lambda_state.value
            self.fold.accelerator = SkippedStep(self.fold.accelerator)
            super()._step_lambda()
            self.fold.accelerator = self.fold.accelerator.real
            assert self.lambda_state.value == before
            super()._step_lambda()
            assert self.lambda_state.value != before

    class SkippedStep:
        optimizer_step_was_skipped = True

        def __init__(self, real):
            self.real = real

    trainer = make_trainer(config(tmp_path, objective="lambda_grpo", max_steps=1), Scaled, reward)
    trainer.steps = []
    trainer.train()
    assert trainer.lambda_state.value != 0.0
