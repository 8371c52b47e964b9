"""Samples of problems, drawn and graded, and what they say together."""

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

SEEDS = 10**9 + 7  # between two seeds of a user's: more than there are samples


@dataclass(frozen=True)
class Row:
    """One sample of one problem.

    Attributes:
        problem: its index; id: as the data set has it.
        sample: which one of this problem.
        answer: the reference. extracted: the completion's own, as it is written there; None if none was found.
        vote: see `Grade`. length: in tokens. ended: whether it ended before the limit.
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
    """What one evaluation found.

    Attributes:
        n: problems. samples: of each.
        accuracy: the share of samples whose score is 1; ci95: its interval, clustered by problem.
        metrics: accuracy, avg@k, pass@k, and maj@k where answers can be told apart, each with value, ci95 and se.
        score_mean: partial credit counts. completion_length_mean: in tokens.
        truncated, unanswered: shares that hit the token limit, and in which no answer was found.
        timed_out: how many samples took too long to grade: they count as wrong.
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Prompt:
    """What the model reads, as text and as token ids."""

    text: str
    ids: list[int]


def read_prompts(task: Task, template: Template, tokenizer: Any, shots: Sequence[tuple[str, str]] = ()) -> list[Prompt]:
    """The prompt of each example.

    Args:
        shots: worked examples before each problem.
    """
    texts = [template.render(task[i].prompt, tokenizer, shots) for i in range(len(task))]
    return [Prompt(text, template.tokenize(text, tokenizer)) for text in texts]


def draw_rows(
    engine: Engine,
    task: Task,
    prompts: Sequence[Prompt],
    template: Template,
    sampling: Sampling,
    *,
    samples: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    start: int = 0,
) -> Iterator[list[Row]]:
    """Draw and grade, batch by batch: all samples of the first problem, of the second one, and so on.

    Each batch has random numbers of its own, so that one that goes on at the beginning of a batch draws what it would
    have drawn.

    Args:
        prompts: of each example, as `read_prompts` makes them with the template.
        start: at which sample to go on, a multiple of `batch_size`.
    """
    work = [(problem, sample) for problem in range(len(task)) for sample in range(samples)]
    for first in range(start, len(work), batch_size):
        part = work[first : first + batch_size]
        examples = [task[problem] for problem, _ in part]
        ids = [prompts[problem].ids for problem, _ in part]
        drawn = engine.sample(ids, sampling, seed=seed * SEEDS + first, stops=template.stops)
        texts = [template.cut(completion.text) for completion in drawn]
        drawn = [_cut(completion, text, engine.tokenizer) for completion, text in zip(drawn, texts, strict=True)]
        yield [
            Row(
                problem, example.metadata.get("id", problem), sample, prompts[problem].text, text, example.answer,
                grade.extracted,
                grade.score, grade.correct, grade.timed_out, grade.vote, completion.length, completion.ended,
            )
            for (problem, sample), example, text, completion, grade in zip(
                part, examples, texts, drawn, grade_all(task, texts, examples), strict=True
            )
        ]  # fmt: skip


def _cut(completion: Completion, text: str, tokenizer: Any) -> Completion:
    """A completion that was drawn beyond a stop, as long as its text up to there."""
    if text == completion.text:
        return completion
    return Completion(text, len(tokenizer(text, add_special_tokens=False)["input_ids"]), True)


def summarise(task: Task, rows: Sequence[Row], sampling: Sampling, seed: int) -> Evaluation:
    """What the samples of all problems say together. Each problem has as many."""
    by_problem: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_problem[row.problem].append(row)
    problems = list(by_problem.values())
    samples = len(problems[0])
    right = [sum(row.correct for row in problem) for problem in problems]
    accuracy = clustered_mean([count / samples for count in right], samples)
    metrics = {"accuracy": accuracy, f"avg@{samples}": accuracy}
    for k in powers_up_to(samples):
        metrics[f"pass@{k}"] = clustered_mean([pass_at_k(count, samples, k) for count in right], samples)
    extracts = hasattr(task, "extract") or hasattr(task, "grade_all")
    if extracts:
        same = getattr(task, "same_answers", None)
        votes = pooled_votes(problems, same) if same else [[row.vote for row in problem] for problem in problems]
        metrics[f"maj@{samples}"] = clustered_mean(
            [
                majority_at_k(cast, [row.correct for row in problem])
                for cast, problem in zip(votes, problems, strict=True)
            ]
        )
    count = len(rows)
    return Evaluation(
        task=task.name,
        n=len(problems),
        accuracy=accuracy.value,
        ci95=accuracy.ci95,
        score_mean=sum(row.score for row in rows) / count,
        completion_length_mean=sum(row.length for row in rows) / count,
        truncated=sum(not row.ended for row in rows) / count,
        sampling=sampling,
        seed=seed,
        samples=samples,
        metrics=metrics,
        unanswered=sum(row.extracted is None for row in rows) / count if extracts else None,
        timed_out=sum(row.timed_out for row in rows),
    )
