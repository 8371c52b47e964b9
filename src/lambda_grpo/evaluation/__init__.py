"""Accuracy of a model on problems with a known answer, with its interval."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo.evaluation.engines import LocalEngine, Sampling
from lambda_grpo.evaluation.samples import Evaluation, draw_rows, read_prompts, summarise
from lambda_grpo.tasks import Task
from lambda_grpo.tasks.maths.templates import TEMPLATES, Template

__all__ = ["Evaluation", "Sampling", "evaluate"]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    sampling: Sampling,
    *,
    batch_size: int = 256,
    seed: int = 0,
    template: Template = TEMPLATES["plain"],
) -> Evaluation:
    """Sample one completion for each example, in this process, and grade it. `lambda-grpo eval` does more.

    Args:
        task: its examples are all used; take a held-out split.
        sampling: how to draw the completions.
        batch_size: completions sampled together.
        seed: of the sampling; the caller's random state is left as it was.
        template: how a problem is put; by default as it is.
    """
    engine = LocalEngine(model, tokenizer)
    prompts = read_prompts(task, template, tokenizer)
    batches = draw_rows(engine, task, prompts, template, sampling, batch_size=batch_size, seed=seed)
    rows = [row for batch in batches for row in batch]
    return summarise(task, rows, sampling, seed)
