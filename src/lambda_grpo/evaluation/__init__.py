"""Evaluating a model on problems with known answers: accuracy and other metrics with confidence intervals."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo.evaluation.engines import LocalEngine, Sampling
from lambda_grpo.evaluation.samples import Evaluation, draw_samples, render_prompts, summarise
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
    """Sample one completion for each example, in this process, and grade it.

    `lambda-grpo eval` (`evaluation.run`) offers more: several samples, other engines, result files, resuming.

    Args:
        task: all of its examples are used; pass a held-out split.
        sampling: the sampling parameters.
        batch_size: completions sampled together.
        seed: of the sampling; the caller's random state is left unchanged.
        template: the prompt template; by default the prompt is the problem itself.
    """
    engine = LocalEngine(model, tokenizer)
    prompts = render_prompts(task, template, tokenizer)
    batches = draw_samples(engine, task, prompts, template, sampling, batch_size=batch_size, seed=seed)
    samples = [sample for batch in batches for sample in batch]
    return summarise(task, samples, sampling, seed)
