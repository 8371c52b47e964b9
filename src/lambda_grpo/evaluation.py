"""Accuracy of a model on held-out examples of a task, with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo.tasks import Task, grade


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
    max_completion_length: int
    temperature: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    max_completion_length: int,
    temperature: float = 1.0,
    batch_size: int = 256,
    seed: int = 0,
) -> Evaluation:
    """Sample one completion for each example and grade it.

    Args:
        task: its examples are all used; take a held-out split.
        max_completion_length: tokens at most for one completion.
        temperature: 0 is greedy.
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
            sampled = _sample(model, tokenizer, prompts, max_completion_length, temperature)
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
        max_completion_length=max_completion_length,
        temperature=temperature,
        seed=seed,
    )


@torch.no_grad()
def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_completion_length: int,
    temperature: float,
) -> Iterator[tuple[list[int], bool]]:
    """(token ids up to and with the end of sequence, whether there was one) for each prompt."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=max_completion_length,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
    )
    for row in output[:, inputs["input_ids"].size(1) :].tolist():
        end = next((t for t, token in enumerate(row) if token in ends), None)
        yield (row, False) if end is None else (row[: end + 1], True)
