"""Features of TRL with a learned preference: the KL term, tools, several rewards, conversations."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.chat_template_utils import qwen2_5_chat_template

from lambda_grpo.training.data import task_dataset
from tests.evaluation.tiny_models import CHATML, save_model
from tests.invariant.injected_run import reward
from tests.objective import reference
from tests.trl.recorded_steps import G, Recorded, assert_step_is, batch_of, distance
from tests.trl.setup import TASK, config, logged, make_trainer, parameters

LEARNED = {
    "objective": "lambda_grpo", "lambda_init": 1.5, "per_device_train_batch_size": 8, "max_completion_length": 24,
    "max_steps": 1,
}  # fmt: skip

# -- the KL term -------------------------------------------------------------------------------------------------------


def apart_from_its_reference(path, lambda_, beta):
    """One step of a policy that isn't its reference any more, over a batch in one piece: TRL logs means of pieces.

    Without TRL's correction of the KL, whose ratio is 1 here and has a gradient all the same.
    """
    whole = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "use_bias_correction_kl": False}
    args = config(path, **{**LEARNED, "lambda_init": lambda_, **whole}, lambda_lr=0.0, beta=beta)
    trainer = make_trainer(args, Recorded, reward)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=noise)
    trainer.train()
    return trainer


def test_the_kl_term_is_left_alone_by_the_preference(tmp_path):
    beta = 0.04
    runs = {
        (lambda_, b): apart_from_its_reference(tmp_path, lambda_, b) for lambda_ in (1.5, -3.0) for b in (0.0, beta)
    }
    samples = [run.sampled[0].completion_ids for run in runs.values()]
    assert samples == samples[:1] * 4
    steps = {key: run.steps[0] for key, run in runs.items()}
    plain, other = steps[1.5, 0.0].gradient, steps[-3.0, 0.0].gradient
    assert distance(plain, other) > 0.01 * distance(plain)
    run = runs[1.5, beta]
    batch = batch_of(run.sampled[0], steps[1.5, beta].policy, [0.0] * 16, reference_policy=run.ref_model.double())
    kl = reference.kl(batch, "lambda_grpo")
    expected = torch.autograd.grad(beta * kl, list(steps[1.5, beta].policy.parameters()))
    assert kl > 0.01
    for lambda_ in (1.5, -3.0):
        assert logged(runs[lambda_, beta], "kl") == pytest.approx([kl.item()], rel=1e-3)
        (with_kl,), (without,) = (logged(runs[lambda_, b], "loss") for b in (beta, 0.0))
        assert with_kl - without == pytest.approx(beta * kl.item(), rel=1e-3)
        own = [a - b for a, b in zip(steps[lambda_, beta].gradient, steps[lambda_, 0.0].gradient, strict=True)]
        assert distance(own, expected) < 1e-3 * distance(expected)
        assert steps[lambda_, beta].lambda_gradient == steps[lambda_, 0.0].lambda_gradient != 0.0


# -- tools -------------------------------------------------------------------------------------------------------------


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: the one.
        b: the other.
    """
    return a * b


class Scripted(Recorded):
    """Every other sample calls the tool, and answers in a second turn."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        is_second = hasattr(self, "first")
        texts = [self.text(i, is_second) for i in (self.callers if is_second else range(len(prompt_ids)))]
        ids = [self.processing_class(text)["input_ids"] for text in texts]
        if is_second:
            self.second = dict(zip(self.callers, ids, strict=True))
        else:
            self.first, self.callers = ids, [i for i in range(len(ids)) if i % 2]
        return [list(row) for row in ids], None

    def text(self, i, is_second):
        call = f'<tool_call>\n{{"name": "multiply", "arguments": {{"a": {i}, "b": {10**i}}}}}\n</tool_call>'
        return (call if i % 2 and not is_second else "It is 12. " * (1 + i % 5)) + "<|im_end|>"


def test_a_tools_tokens_are_no_length_and_carry_no_loss(tmp_path):
    model = save_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = qwen2_5_chat_template
    prompts = [[{"role": "user", "content": f"What is {i} times 12?"}] for i in range(4)]
    batches = []
    args = config(tmp_path, **{**LEARNED, "max_completion_length": 400}, lambda_lr=5.0)
    trainer = Scripted(
        model=AutoModelForCausalLM.from_pretrained(model), reward_funcs=reward, args=args, tools=[multiply],
        train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer, on_samples=batches.append,
    )  # fmt: skip
    trainer.train()
    (sampled,) = trainer.sampled
    by_policy = []
    for i, ids in enumerate(sampled.completion_ids):
        first, second = trainer.first[i], trainer.second.get(i, [])
        assert ids[: len(first)] == first
        assert ids[len(ids) - len(second) :] == second
        tools = ids[len(first) : len(ids) - len(second)]
        assert (f"<tool_response>\n{i * 10**i}\n" in tokenizer.decode(tools)) == bool(i % 2)
        by_policy.append([1] * len(first) + [0] * len(tools) + [1] * len(second))
    lengths = [sum(mask) for mask in by_policy]
    assert batches[0]["length"] == lengths
    assert logged(trainer, "tools/call_frequency") == [0.5]
    weights = reference.weights(lengths, sampled.group_ids, "lambda_grpo", 1.5)
    assert batches[0]["weight"] == pytest.approx([w.item() for w in weights], rel=1e-5)
    advantages = reference.advantages(reward(completion_ids=sampled.completion_ids), sampled.group_ids, "group")
    batch = batch_of(sampled, trainer.steps[0].policy, advantages, by_policy)
    assert_step_is(trainer.steps[0], lambda lambda_: reference.lambda_grpo(batch, lambda_))


# -- rewards -----------------------------------------------------------------------------------------------------------


def can_be_read(text):
    return sum(map(ord, text)) % 3 > 0


def right(completions, index, **_):
    """Scores two of three prompts."""
    return [
        TASK.grade(text, TASK[row]) if row % 3 < 2 and can_be_read(text) else None
        for text, row in zip(completions, index, strict=True)
    ]


def short(completions, index, **_):
    """Scores one of three."""
    return [
        -len(text) / 8 if row % 3 == 1 and can_be_read(text) else None
        for text, row in zip(completions, index, strict=True)
    ]


def odd(completions, **_):
    return [float(sum(map(ord, text)) % 2) for text in completions]


def weighted(rewards, weights):
    """The sum of what was scored; NaN where nothing was."""
    known = [weight * reward for weight, reward in zip(weights, rewards, strict=True) if reward is not None]
    return sum(known) if known else math.nan


@pytest.mark.parametrize(
    ("functions", "weights"),
    [([right, short], None), ([right, short, odd], [0.25, 2.0, 0.5])],
    ids=["nobody scores some groups", "weighted"],
)
def test_rewards_are_the_weighted_sum_of_what_was_scored(functions, weights, tmp_path):
    batches = []
    args = config(tmp_path, **{**LEARNED, "per_device_train_batch_size": 16}, reward_weights=weights, seed=11)
    trainer = make_trainer(args, Recorded, functions, on_samples=batches.append)
    trainer.train()
    (sampled,), (batch,) = trainer.sampled, batches
    by_prompt = {row["prompt"]: row["index"] for row in task_dataset(TASK)}
    index = [by_prompt[prompt] for prompt in batch["prompt"]]
    scores = [function(completions=batch["completion"], index=index) for function in functions]
    for function, own in zip(functions, scores, strict=True):
        known = [score for score in own if score is not None]
        assert logged(trainer, f"rewards/{function.__name__}/mean") == pytest.approx([sum(known) / len(known)])
    rewards = [weighted(own, weights or [1.0] * len(functions)) for own in zip(*scores, strict=True)]
    is_scored = [not math.isnan(value) for value in rewards]
    if weights is None:
        by_group = [is_scored[k : k + G] for k in range(0, 32, G)]
        assert any(not any(group) for group in by_group)
        assert any(
            0 < sum(group) < G and any(batch["advantage"][k * G : k * G + G]) for k, group in enumerate(by_group)
        )
    assert [value is not None for value in batch["reward"]] == is_scored
    assert [value for value in batch["reward"] if value is not None] == pytest.approx(
        [value for value in rewards if not math.isnan(value)]
    )
    advantages = reference.advantages(rewards, sampled.group_ids, "group")
    assert batch["advantage"] == pytest.approx(advantages, rel=1e-4, abs=1e-6)
    whole = batch_of(sampled, trainer.steps[0].policy, advantages)
    assert_step_is(trainer.steps[0], lambda lambda_: reference.lambda_grpo(whole, lambda_))


# -- conversations -----------------------------------------------------------------------------------------------------

TEMPLATES = {
    "its words alone": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "a real one": CHATML,
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_conversation_trains_as_the_text_that_it_renders_to(template, tmp_path):
    model = save_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATES[template]
    talks = [[{"role": "user", "content": f"What is {i} + 12?"}] for i in range(8)]
    texts = [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
    assert (texts[0] == "What is 0 + 12?") == (template == "its words alone")
    trainers, batches = [], []
    for prompts in (talks, texts):
        args = config(tmp_path / "out", **{**LEARNED, "max_steps": 2}, lambda_lr=5.0)
        policy = AutoModelForCausalLM.from_pretrained(model)
        # random weights rarely draw one token of all, and completions would be equally long
        policy.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(100, 140)]
        trainer = Recorded(
            model=policy, reward_funcs=reward, args=args,
            train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer,
            on_samples=batches.append,
        )  # fmt: skip
        trainer.train()
        trainers.append(trainer)
    talk, text = trainers
    for key in ("loss", "lambda", "lambda_grad", "reward", "completions/mean_length"):
        assert logged(talk, key) == logged(text, key)
    assert talk.lambda_state.value == text.lambda_state.value != 1.5
    theirs = parameters(text)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(talk).items())
    for sampled, step, of_talk, of_text in zip(talk.sampled, talk.steps, batches[:2], batches[2:], strict=True):
        assert [tokenizer.decode(ids) for ids in sampled.prompt_ids] == of_text["prompt"]
        lengths = [len(ids) for ids in sampled.completion_ids]
        assert len(set(lengths)) > 2
        assert of_talk["length"] == of_text["length"] == lengths
        weights = reference.weights(lengths, sampled.group_ids, "lambda_grpo", step.lambda_)
        assert of_talk["weight"] == of_text["weight"] == pytest.approx([f.item() for f in weights], rel=1e-5)
