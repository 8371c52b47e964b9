"""The JSON record of an evaluation: the types of TASK.json, which `lambda-grpo eval` writes.

`schema.json` beside this module is its JSON schema, generated from these types.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from lambda_grpo.models import TrainingInfo


class EstimateRecord(TypedDict):
    """A metric: its value, 95 % interval and standard error."""

    value: float
    ci95: list[float]
    se: float


class SamplingRecord(TypedDict):
    """The sampling parameters (`engines.Sampling`)."""

    max_completion_length: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float | None
    repetition_penalty: float


class TemplateRecord(TypedDict):
    """The prompt template (`tasks.maths.templates.Template`)."""

    name: str
    source: str
    text: str
    chat: bool
    system: str | None
    stops: list[str]
    options: dict[str, Any]


class DataRecord(TypedDict):
    """Where the problems are from, and a digest of them. Generated tasks have `task` and `split`, others `data`."""

    digest: str
    task: NotRequired[str]
    data: NotRequired[str]
    config: NotRequired[str | None]
    split: NotRequired[str]
    files: NotRequired[list[str]]
    rows: NotRequired[int]
    whole: NotRequired[bool]
    without_answer: NotRequired[int]


class ShotsRecord(TypedDict):
    """The worked examples of few-shot prompts: their number, and a digest of them."""

    count: int
    digest: str


class EvaluationSettings(TypedDict):
    """Everything that determines the result: `n` problems with `samples` samples each."""

    task: str
    n: int
    samples: int
    model: str
    path: str
    weights: str
    trained: TrainingInfo | None
    versions: dict[str, str | None]
    git_commit: str | None
    data: DataRecord
    engine: str
    server: str | None
    template: TemplateRecord
    shots: ShotsRecord | None
    example_prompt: str
    sampling: SamplingRecord
    seed: int
    batch_size: int


class EvaluationRecord(EvaluationSettings):
    """A finished evaluation: its settings, and the metrics of `samples.Evaluation`."""

    accuracy: float
    ci95: list[float]
    score_mean: float
    completion_length_mean: float
    truncated: float
    metrics: dict[str, EstimateRecord]
    unanswered: float | None
    timed_out: int
    finished: bool
