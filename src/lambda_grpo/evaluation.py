"""Accuracy of a model on held-out examples of a task, with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo.errors import warn_once
from lambda_grpo.rollout import FastSampler, UnsupportedError
from lambda_grpo.tasks import Task, grade


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: all that decides it, nothing is taken from the model's own defaults.

    A temperature of 0 is greedy; the other defaults leave the distribution as it is.
    """

    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def generation_config(self, eos_token_id: int | list[int], pad_token_id: int) -> GenerationConfig:
        """As transformers takes it."""
        settings: dict[str, Any] = {"do_sample": False}
        if self.temperature > 0:
            settings = {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "top_k": self.top_k,
                "min_p": self.min_p,
            }
        return GenerationConfig(
            max_new_tokens=self.max_completion_length,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            **settings,
        )


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    `accuracy` is the share of examples whose score is 1, `ci95` its Wilson interval, `score_mean` the mean score
    (partial credit counts), lengths are in tokens, `truncated` is the share that hit the token limit.
    """

    task: str
    n: int
    accuracy: float
    ci95: tuple[float, float]
    score_mean: float
    completion_length_mean: float
    truncated: float
    sampling: Sampling
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    sampling: Sampling,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> Evaluation:
    """Sample one completion for each example and grade it.

    Args:
        task: its examples are all used; take a held-out split.
        sampling: how to draw the completions.
        batch_size: completions sampled together.
        seed: of the sampling; the caller's random state is left as it was.
    """
    correct, scores, lengths, truncated = 0, 0.0, 0, 0
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(task), batch_size):
            examples = [task[i] for i in range(start, min(start + batch_size, len(task)))]
            prompts = [example.prompt for example in examples]
            sampled = _sample(model, tokenizer, prompts, sampling)
            for example, (ids, ended) in zip(examples, sampled, strict=True):
                score = grade(task, tokenizer.decode(ids, skip_special_tokens=True), example)
                correct += score == 1.0
                scores += score
                lengths += len(ids)
                truncated += not ended
    model.train(was_training)
    n = len(task)
    interval = binomtest(correct, n).proportion_ci(method="wilson")
    return Evaluation(
        task=task.name,
        n=n,
        accuracy=correct / n,
        ci95=(float(interval.low), float(interval.high)),
        score_mean=scores / n,
        completion_length_mean=lengths / n,
        truncated=truncated / n,
        sampling=sampling,
        seed=seed,
    )


@torch.no_grad()
def _sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], sampling: Sampling
) -> list[tuple[list[int], bool]]:
    """(token ids up to and with the end of sequence, whether there was one) for each prompt."""
    own = model.generation_config
    config = sampling.generation_config(own.eos_token_id or tokenizer.eos_token_id, tokenizer.pad_token_id)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if model.device.type == "cpu":  # elsewhere the fast sampler hasn't been measured
        try:
            sampled = FastSampler(config)(model, tokenizer(prompts)["input_ids"]).ids
            return [(ids, ids[-1] in ends) for ids in sampled]
        except UnsupportedError as error:
            warn_once(f"the fast sampler doesn't know {error}. Evaluation takes model.generate instead")
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    model.generation_config = config  # generate fills what a configuration leaves open from the model's own
    try:
        output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    finally:
        model.generation_config = own
    rows = []
    for row in output[:, inputs["input_ids"].size(1) :].tolist():
        end = next((t for t, token in enumerate(row) if token in ends), None)
        rows.append((row, False) if end is None else (row[: end + 1], True))
    return rows
