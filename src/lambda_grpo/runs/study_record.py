"""The JSON record of a study: the types of results.json, which `lambda-grpo compare` writes.

`study_schema.json` beside this module is its JSON schema, generated from these types.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict


class MeanRecord(TypedDict):
    """A mean over seeds with its 95 % t interval, which one seed doesn't have."""

    mean: float
    ci95: list[float] | None
    n: int


class RunNames(TypedDict):
    """What identifies a run of a study."""

    objective: str
    task: str
    learning_rate: float
    seed: int


# The course of a run: one value per logged step
Curve = TypedDict(
    "Curve",
    {
        "step": list[int],
        "tokens": list[float | None],
        "reward": list[float | None],
        "length": list[float | None],
        "entropy": list[float | None],
        "lambda": list[float | None],
        "weight_min": list[float | None],
        "weight_max": list[float | None],
    },
)
_Lambda = TypedDict("_Lambda", {"lambda": float | None})
_MeanLambda = TypedDict("_MeanLambda", {"lambda": MeanRecord | None})


class RunFigures(_Lambda):
    """The figures of one run.

    accuracy, completion_length_mean: held-out, after training; accuracy_before, completion_length_mean_before: before.
    lambda: at the last logged step. entropy: mean over the last steps, in nats per token.
    num_tokens: prompt and completion tokens sampled for training, as TRL counts them.
    tokens_to_target: their number when the samples' accuracy first reached `target_accuracy`; None if never.
    clip_fraction: share of tokens with a clipped ratio, mean over steps.
    grad_clip_fraction: share of steps with a clipped gradient norm.
    share_by_length_quartile, share_right: shares of the weighted advantage mass f·|A|·|o|.
    informative_groups: share of groups with differing rewards, mean over steps.
    limits: the smallest and the largest possible value of a figure; for `reward` those that occurred.
    """

    accuracy: float
    completion_length_mean: float
    entropy: float | None
    accuracy_before: float
    completion_length_mean_before: float
    num_tokens: float | None
    tokens_to_target: float | None
    clip_fraction: float | None
    grad_clip_fraction: float | None
    share_by_length_quartile: list[float] | None
    share_right: float | None
    git_commit: str | None
    curve: Curve
    informative_groups: NotRequired[float | None]
    limits: NotRequired[dict[str, list[float]]]


class RunResult(RunNames, RunFigures):
    """A reported run that finished."""


class FailureRecord(RunNames):
    """A run that failed."""

    failure: str


class TuningRecord(TypedDict):
    """An arm at one learning rate of the sweep: accuracy by tuning seed, None for a failed run, and their mean."""

    objective: str
    task: str
    learning_rate: float
    value: float | None
    values: list[float | None]
    chosen: bool


class ComparisonRecord(TypedDict):
    """The paired difference between an objective and `against` on a task (`comparison.statistics`)."""

    objective: str
    against: str
    task: str
    endpoint: str
    difference: float
    ci95: list[float] | None
    n: int
    bootstrap_ci95: list[float] | None
    p: float | None
    p_holm: float | None
    detectable_difference: float | None
    verdict: str
    sentence: str


class ObjectiveFigures(_MeanLambda):
    """The means over seeds of an objective on a task. None: no run has this figure."""

    objective: str
    task: str
    learning_rate: float
    accuracy: MeanRecord | None
    completion_length_mean: MeanRecord | None
    entropy: MeanRecord | None
    tokens_to_target: MeanRecord | None
    num_tokens: MeanRecord | None
    clip_fraction: MeanRecord | None
    grad_clip_fraction: MeanRecord | None
    share_right: MeanRecord | None
    reached_target: int
    share_by_length_quartile: list[MeanRecord | None]


class Budget(TypedDict):
    """What every run may use; None: the recipe's epochs."""

    max_steps: int | None


class StudySettings(TypedDict):
    """The settings of a study. `objectives`: the recipe keys of each arm; `recipe`: those that all runs share."""

    objectives: dict[str, dict[str, Any]]
    against: str
    tasks: list[str]
    seeds: list[int]
    tuning_seeds: list[int]
    learning_rates: list[float]
    endpoint: str
    target_accuracy: float
    keep_checkpoints: bool
    model: str
    budget: Budget
    recipe: dict[str, Any]


class StudyRecord(TypedDict):
    """results.json. `verdict`: the conclusions in sentences, the most important first."""

    study: StudySettings
    verdict: list[str]
    comparisons: list[ComparisonRecord]
    objectives: list[ObjectiveFigures]
    tuning: list[TuningRecord]
    failures: list[FailureRecord]
    runs: list[RunResult]
    versions: dict[str, str | None]
    git_commit: str | None
