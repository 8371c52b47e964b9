"""The JSON records of a run: the types of run.json, of a line of metrics.jsonl and of an evaluation during training.

`schema.json` beside this module is the JSON schema of run.json, generated from these types.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict


class DataRecord(TypedDict):
    """The training data; with a task also its problems, their source, and what they share with test sets."""

    name: str | None
    problems: NotRequired[int]
    digest: NotRequired[str]
    source: NotRequired[dict[str, Any] | None]
    seed: NotRequired[int | None]
    template: NotRequired[dict[str, Any]]
    held_out: NotRequired[str | None]
    overlaps: NotRequired[list[dict[str, Any]]]


class ResolvedSettings(TypedDict):
    """Every setting with its value, defaults included. `lambda-grpo train` records all, a script only `training`."""

    training: dict[str, Any]
    task: NotRequired[dict[str, Any]]
    model: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]


class RunRecord(TypedDict):
    """run.json.

    objective: the objective's parts, with at least `name` and `learnable`.
    recipe: the keys of `lambda-grpo train`'s recipe, which `--resume` reads.
    model_step: the step of the model that the directory itself holds.
    """

    started: str
    objective: dict[str, Any]
    model: str
    data: DataRecord
    recipe: NotRequired[dict[str, Any]]
    resolved: ResolvedSettings
    versions: dict[str, str | None]
    git_commit: str | None
    model_step: NotRequired[int]


# A line of metrics.jsonl: the mean over the steps since the line before. It also holds all that TRL logs.
# lambda, lambda_grad: None for an objective without λ; an objective with several has their mean.
# weight_min, weight_max: the range of f; None where every sample was filtered out.
MetricsRecord = TypedDict(
    "MetricsRecord",
    {
        "step": int,
        "lambda": float | None,
        "lambda_grad": float | None,
        "reward": NotRequired[float | None],
        "completion_length_mean": NotRequired[float | None],
        "entropy": NotRequired[float | None],
        "weight_min": NotRequired[float | None],
        "weight_max": NotRequired[float | None],
        "informative_groups": NotRequired[float | None],
        "step_time": NotRequired[float | None],
        "num_tokens": NotRequired[float | None],
        "generated_tokens": NotRequired[float | None],
        "grad_norm": NotRequired[float | None],
    },
)


class HeldOutRecord(TypedDict):
    """A line of eval/during.jsonl, and what eval/before.json and eval/after.json hold as well.

    step: the optimiser steps of the policy.
    num_tokens: prompt and completion tokens of the training up to there, TRL's metric. generated_tokens: completion
        tokens that were sampled for it, over all processes; None in a run that resumed from a checkpoint without it.
    n: number of problems. accuracy: share of them with a grade of 1, with its 95 % interval.
    verdicts: a digit for each problem, in order: 1 for a grade of 1, otherwise 0.
    """

    step: int
    num_tokens: int
    generated_tokens: int | None
    n: int
    accuracy: float
    ci95: list[float]
    score_mean: float
    completion_length_mean: float
    verdicts: str
