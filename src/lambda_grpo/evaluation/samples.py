"""Drawing and grading samples of problems, and computing the metrics of an evaluation from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lambda_grpo.evaluation.engines import Completion, Engine, Sampling
from lambda_grpo.evaluation.statistics import Estimate, clustered_mean, majority_at_k, pass_at_k, powers_up_to
from lambda_grpo.evaluation.voting import pooled_votes
from lambda_grpo.tasks import Task, grade_all
from lambda_grpo.tasks.maths.templates import Template

SEED_STRIDE = 10**9 + 7  # distance of the sampling seeds of two user seeds: more than there are samples


@dataclass(frozen=True)
class Sample:
    """One graded sample of one problem.

    Attributes:
        problem: index of the problem; id: the data set's own.
        sample: index among the samples of this problem.
        answer: the reference answer; extracted: the completion's answer, as written; None if none was found.
        vote: see `Grade`. length: in tokens. ended: whether it ended before the token limit.
    """

    problem: int
    id: Any
    sample: int
    prompt: str
    completion: str
    answer: str | None
    extracted: str | None
    score: float
    correct: bool
    timed_out: bool
    vote: str | None
    length: int
    ended: bool


@dataclass(frozen=True)
class Evaluation:
    """The metrics of an evaluation.

    Attributes:
        n: number of problems. samples: per problem.
        accuracy: share of samples with score 1; ci95: its 95 % interval, clustered by problem.
        metrics: accuracy, avg@k, pass@k, and maj@k if the task extracts answers, each with value, ci95 and se.
        score_mean: mean score, with partial credit. completion_length_mean: in tokens.
        truncated, unanswered: share of samples that hit the token limit, and without an answer.
        timed_out: number of samples whose grading exceeded a limit; they count as wrong.
        verdicts: a digit for each sample, in order: 1 with score 1, otherwise 0.
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
    samples: int
    metrics: dict[str, Estimate]
    unanswered: float | None
    timed_out: int
    verdicts: str

    def to_dict(self) -> dict[str, Any]:
        """All but the verdicts, which `lambda-grpo eval` writes with each sample."""
        return {name: value for name, value in asdict(self).items() if name != "verdicts"}


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and as token ids."""

    text: str
    ids: list[int]


def render_prompts(
    task: Task, template: Template, tokenizer: Any, shots: Sequence[tuple[str, str]] = ()
) -> list[Prompt]:
    """The prompt of each example.

    Args:
        shots: worked examples for a few-shot prompt.
    """
    texts = [template.render(task[i].prompt, tokenizer, shots) for i in range(len(task))]
    return [Prompt(text, template.tokenize(text, tokenizer)) for text in texts]


def draw_samples(
    engine: Engine,
    task: Task,
    prompts: Sequence[Prompt],
    template: Template,
    sampling: Sampling,
    *,
    samples_per_problem: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    start: int = 0,
) -> Iterator[list[Sample]]:
    """Draw and grade samples, batch by batch: all samples of the first problem, then of the second one, and so on.

    Each batch has its own seed, so that an evaluation that resumes at the start of a batch draws the same samples as
    one that wasn't interrupted.

    Args:
        prompts: of each example, from `render_prompts` with the same template.
        start: the sample to resume at, a multiple of `batch_size`.
    """
    work = [(problem, sample) for problem in range(len(task)) for sample in range(samples_per_problem)]
    for first in range(start, len(work), batch_size):
        batch = work[first : first + batch_size]
        examples = [task[problem] for problem, _ in batch]
        ids = [prompts[problem].ids for problem, _ in batch]
        drawn = engine.sample(ids, sampling, seed=seed * SEED_STRIDE + first, stops=template.stops)
        texts = [template.cut(completion.text) for completion in drawn]
        drawn = [_cut(completion, text, engine.tokenizer) for completion, text in zip(drawn, texts, strict=True)]
        yield [
            Sample(
                problem, example.metadata.get("id", problem), sample, prompts[problem].text, text, example.answer,
                grade.extracted,
                grade.score, grade.correct, grade.timed_out, grade.vote, completion.length, completion.ended,
            )
            for (problem, sample), example, text, completion, grade in zip(
                batch, examples, texts, drawn, grade_all(task, texts, examples), strict=True
            )
        ]  # fmt: skip


def _cut(completion: Completion, text: str, tokenizer: Any) -> Completion:
    """A completion with its text cut at a stop string, and the length of that text."""
    if text == completion.text:
        return completion
    return Completion(text, len(tokenizer(text, add_special_tokens=False)["input_ids"]), True)


def summarise(task: Task, samples: Sequence[Sample], sampling: Sampling, seed: int) -> Evaluation:
    """The metrics of the samples of all problems. Each problem has the same number of samples."""
    by_problem: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_problem[sample.problem].append(sample)
    problems = list(by_problem.values())
    k = len(problems[0])
    right = [sum(sample.correct for sample in problem) for problem in problems]
    accuracy = clustered_mean([count / k for count in right], k)
    metrics = {"accuracy": accuracy, f"avg@{k}": accuracy}
    for j in powers_up_to(k):
        metrics[f"pass@{j}"] = clustered_mean([pass_at_k(count, k, j) for count in right], k)
    extracts = hasattr(task, "extract") or hasattr(task, "grade_all")
    if extracts:
        same = getattr(task, "same_answers", None)
        votes = pooled_votes(problems, same) if same else [[sample.vote for sample in problem] for problem in problems]
        metrics[f"maj@{k}"] = clustered_mean(
            [
                majority_at_k(cast_votes, [sample.correct for sample in problem])
                for cast_votes, problem in zip(votes, problems, strict=True)
            ]
        )
    count = len(samples)
    return Evaluation(
        task=task.name,
        n=len(problems),
        accuracy=accuracy.value,
        ci95=accuracy.ci95,
        score_mean=sum(sample.score for sample in samples) / count,
        completion_length_mean=sum(sample.length for sample in samples) / count,
        truncated=sum(not sample.ended for sample in samples) / count,
        sampling=sampling,
        seed=seed,
        samples=k,
        metrics=metrics,
        unanswered=sum(sample.extracted is None for sample in samples) / count if extracts else None,
        timed_out=sum(sample.timed_out for sample in samples),
        verdicts="".join("1" if sample.correct else "0" for sample in samples),
    )
