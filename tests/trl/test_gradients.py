"""The trainer's gradients of λ and of the policy against a plain full-batch reference in float64.

The reference takes from the trainer only which tokens were sampled and which rows went into an optimiser step.
Rewards, advantages, lengths, weights, log-probabilities (one unpadded row at a time) and normalisers are its own.
"""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo import PRESETS
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.objective import reference
from tests.trl.setup import TASK, config, make_trainer

R, EPSILON = 1 / 9, 0.2


class Observed(LambdaGRPOTrainer):
    """Writes down what was sampled and used, and compares at each optimiser step."""

    def __init__(self, *args, reward_of, **kwargs):
        super().__init__(*args, **kwargs)
        self.reward_of, self.window, self.compared, self.shares = reward_of, [], [], []

    def _generate(self, prompts):
        output = super()._generate(prompts)
        self.rows = [(tuple(p), tuple(c)) for p, c in zip(output[0], output[1], strict=True)]
        model = in_float64(self.model)
        with torch.no_grad():
            self.old = {row: logps(model, row) for row in self.rows}
            self.entropies = {row: entropies(model, row) for row in self.rows}
        return output

    def _compute_loss(self, model, inputs):
        for i in range(len(inputs["prompt_ids"])):
            prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()]
            ids = inputs["completion_ids"][i].tolist()
            length = ids.index(self.eos_token_ids[0]) + 1 if self.eos_token_ids[0] in ids else len(ids)
            self.window.append((tuple(prompt.tolist()), tuple(ids[:length])))
        return super()._compute_loss(model, inputs)

    def _measure_lambda(self):
        lambda_ = torch.tensor(self.lambda_state.value, dtype=torch.float64, requires_grad=True)
        model = in_float64(self.model)
        loss = self.reference_loss(model, lambda_)
        grads = torch.autograd.grad(loss, [lambda_, *model.parameters()], allow_unused=True)
        ours = [p.grad for p in self.model.parameters()]
        error = math.sqrt(sum(((g - o.double()) ** 2).sum() for g, o in zip(grads[1:], ours, strict=True)))
        norm = math.sqrt(sum((g**2).sum() for g in grads[1:]))
        super()._measure_lambda()
        lambda_grad = self.fold.lambda_grad.tolist() if self.objective.preference.learnable else None
        self.compared.append((lambda_grad, None if grads[0] is None else grads[0].tolist(), error / norm))
        self.window.clear()

    def reference_loss(self, model, lambda_):
        G, name = self.num_generations, self.objective.name
        P = len(self.rows) // G
        lengths = [len(completion) for _, completion in self.rows]
        ids = [i // G for i in range(len(self.rows))]
        rewards = [self.reward_of(*row) for row in self.rows]
        rewards = [math.nan if reward is None else reward for reward in rewards]
        advantages = reference.advantages(rewards, ids, "none" if name == "dr_grpo" else "group")
        kept = [not self.mask_truncated_completions or c[-1] == self.eos_token_ids[0] for _, c in self.rows]
        tokens = sum(length for length, keep in zip(lengths, kept, strict=True) if keep)
        share = len(self.window) / len(self.rows)  # of the generated batch that this optimiser step takes
        total = torch.zeros((), dtype=torch.float64)
        for row in self.window:
            i = self.rows.index(row)
            if not kept[i]:
                continue
            members = range(i // G * G, i // G * G + G)
            mean = sum(lengths[j] for j in members) / G
            sigma = math.sqrt(sum((lengths[j] - mean) ** 2 for j in members) / G)
            powers = {j: (1 + R * (lengths[j] - mean) / (sigma + 1e-6)) ** lambda_ for j in members}
            weight = G * powers[i].exp() / sum(power.exp() for power in powers.values())
            surrogate = torch.zeros((), dtype=torch.float64)
            for new, old in zip(logps(model, row), self.old[row], strict=True):
                ratio = (new - old).exp()
                surrogate = surrogate + torch.min(
                    ratio * advantages[i], ratio.clamp(1 - EPSILON, 1 + EPSILON) * advantages[i]
                )
            total = (
                total
                + surrogate
                * {
                    # TRL's normaliser of an optimiser step that takes a part of the generated batch is that part of N
                    "lambda_grpo": weight / (tokens * share),
                    "dapo": 1 / (tokens * share),
                    "lambda_grpo_paper": weight / (P * share * G * mean),
                    "grpo": 1 / lengths[i] / len(self.window),
                    "dr_grpo": 1 / (len(self.window) * self.max_completion_length),
                }[name]
            )
        return -total


def in_float64(model):
    """A fresh copy: a deepcopy would keep the forward that accelerate bound to the original."""
    copy = AutoModelForCausalLM.from_config(model.config).double()
    copy.load_state_dict(model.state_dict())
    return copy


def logps(model, row):
    """Log-probabilities of a completion's tokens, one row without padding."""
    ids = torch.tensor([row[0] + row[1]])
    logits = model(input_ids=ids).logits[0, len(row[0]) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[0, len(row[0]) :, None])[:, 0]


def entropies(model, row):
    """Of the distribution that each token of a completion was drawn from."""
    ids = torch.tensor([row[0] + row[1]])
    log_p = model(input_ids=ids).logits[0, len(row[0]) - 1 : -1].log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def text_reward(tokenizer, *, none_for=lambda completion: False, per_token=1 / 32):
    """Right or wrong, plus a little for length so that few groups are without variance; None where asked.

    Multiples of 1/32: other rewards round in TRL's float32, and its division by std + 1e-4 makes 1e-3 of that in a
    group whose rewards are all equal.
    """
    answers = {TASK[i].prompt: TASK[i] for i in range(len(TASK))}

    def reward_of(prompt_ids, completion_ids):
        prompt = tokenizer.decode(prompt_ids, skip_special_tokens=True)
        completion = tokenizer.decode(completion_ids, skip_special_tokens=True)
        if none_for(completion):
            return None
        return TASK.grade(completion, answers[prompt]) + len(completion_ids) * per_token

    return reward_of


CASES = {
    "whole batch": {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "micro-batches that split groups": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
    "two iterations per batch": {"num_iterations": 2, "max_steps": 4},
    "steps_per_generation above accumulation": {
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 4, "max_steps": 4,
    },
    "truncation masking": {"mask_truncated_completions": True, "max_completion_length": 12},
    "a reward of None": {},
}  # fmt: skip


@pytest.mark.parametrize("objective", ["lambda_grpo", "lambda_grpo_paper", "grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference(case, objective, tmp_path):
    args = config(tmp_path, objective=objective, lambda_init=0.8, lambda_lr=5.0, **{"max_steps": 2, **CASES[case]})
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))
    reward_of = text_reward(
        tokenizer, none_for=(lambda text: text.endswith("3")) if case == "a reward of None" else lambda text: False
    )

    def reward(prompts, completion_ids, **_):
        return [reward_of(tokenizer(p)["input_ids"], ids) for p, ids in zip(prompts, completion_ids, strict=True)]

    trainer = make_trainer(args, lambda args, **kw: Observed(args=args, reward_of=reward_of, **kw), reward)
    trainer.train()
    assert len(trainer.compared) == args.max_steps
    for ours, expected, policy_error in trainer.compared:
        assert policy_error < 3e-5  # float32 against float64
        if PRESETS[objective].preference.learnable:
            assert expected != 0.0
            assert ours == pytest.approx(expected, rel=3e-5)
    if PRESETS[objective].preference.learnable:
        assert trainer.lambda_state.value != 0.8


class Whole(Observed):
    """Compares a step that takes the whole generated batch, through the loops of each paper."""

    def reference_loss(self, model, lambda_):
        G, name = self.num_generations, self.objective.name
        assert sorted(self.window) == sorted(self.rows)
        ids = [i // G for i in range(len(self.rows))]
        T = max(len(completion) for _, completion in self.rows)

        def padded(values):
            return torch.stack([torch.nn.functional.pad(row, (0, T - len(row))) for row in values])

        task_rewards = [self.reward_of(*row) for row in self.rows]
        rewards = list(task_rewards)
        if name == "dapo_full":
            limit = self.max_completion_length
            rewards = [r + overlong(len(c), limit) for r, (_, c) in zip(rewards, self.rows, strict=True)]
        advantages = reference.advantages(rewards, ids, reference.ADVANTAGE_SCALES.get(name, "group"))
        part = taking_part(name, task_rewards, ids)
        self.shares.append(len(part) / len(ids))
        rows = [self.rows[i] for i in part]
        batch = reference.Batch(
            padded([logps(model, row) for row in rows]),
            padded([self.old[row] for row in rows]),
            [advantages[i] for i in part],
            [[int(t < len(completion)) for t in range(T)] for _, completion in rows],
            [ids[i] for i in part],
            [len(completion) for _, completion in rows],
            epsilon=(EPSILON, EPSILON),
            max_length=self.max_completion_length,
            entropies=[self.entropies[row].tolist() for row in rows],
            ids=[list(completion) for _, completion in rows],
        )
        return reference.loss(batch, name, lambda_)


def overlong(length, limit):
    """0 up to L_max − L_c, then falling to −1 at L_max; L_c is a fifth of it."""
    buffer = round(limit / 5)
    return min(0.0, (limit - buffer - length) / buffer)


def taking_part(name, rewards, ids):
    rows = []
    for members in reference.groups(ids):
        if name == "dapo_full" and len({rewards[i] for i in members}) == 1:
            continue
        if name == "devis_grpo":
            ranked = sorted(members, key=lambda i: rewards[i])
            members = sorted({*ranked[:2], *ranked[-2:]})
        rows += members
    return rows


# What lets a preset's own part happen here: few and short completions for DAPO, corrections that the policy can read
OWN_SETTINGS = {
    "dapo_full": {"max_completion_length": 16, "max_resample_times": 1, "seed": 5},
    "edge_grpo": {"reflection_prompt": ",", "answer_template": "#{answer}"},
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_trains_by_its_papers_gradients(name, tmp_path):
    """In micro-batches that split groups, the second of two iterations off-policy; BNPO in one piece."""
    pieces = 1 if name == "bnpo" else 4
    args = config(
        tmp_path, objective=name, lambda_init=0.8, lambda_lr=1.0, num_iterations=2, max_steps=2,
        per_device_train_batch_size=32 // pieces, gradient_accumulation_steps=pieces, **OWN_SETTINGS.get(name, {}),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))
    reward_of = text_reward(tokenizer, none_for=lambda text: False, per_token=0 if name == "dapo_full" else 1 / 32)

    def reward(prompts, completion_ids, **_):
        return [reward_of(tokenizer(p)["input_ids"], ids) for p, ids in zip(prompts, completion_ids, strict=True)]

    trainer = make_trainer(args, lambda args, **kw: Whole(args=args, reward_of=reward_of, **kw), reward)
    trainer.train()
    assert len(trainer.compared) == 2
    for ours, expected, policy_error in trainer.compared:
        assert policy_error < 1e-4  # float32 against float64
        assert ours == (pytest.approx(expected, rel=1e-4, abs=1e-6) if PRESETS[name].preference.learnable else None)
    if name in ("dapo_full", "devis_grpo"):
        assert 0 < min(trainer.shares) < 1  # some are filtered out
    assert ("error_correction/reflected" in trainer.state.log_history[0]) == (name == "edge_grpo")
