"""The JSON record of a study: the types of results.json, which `lambda-grpo compare` writes.

`study_schema.json` beside this module is its JSON schema, generated from these types.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class MeanRecord(TypedDict):
    """A mean over seeds with its 95 % t interval, which one seed or seeds with equal values don't have.

    The interval is cut to the possible values (`runs.limits`).
    """

    mean: float
    ci95: list[float] | None
    n: int


class RunNames(TypedDict):
    """What identifies a run of a study."""

    objective: str
    task: str
    learning_rate: float
    seed: int


# The course of a run: one value per logged step. accuracy: share of samples with a grade of 1
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
        "accuracy": list[float | None],
    },
)


class HeldOutCurve(TypedDict):
    """The evaluations before, during and after training: accuracy, and mean length in tokens, on all problems."""

    step: list[int]
    accuracy: list[float]
    length: list[float]


class HalfRecord(TypedDict):
    """Figures on a half of the held-out problems. accuracy_area: None without evaluations during training."""

    accuracy: float
    accuracy_area: float | None


_Lambda = TypedDict("_Lambda", {"lambda": float | None})
_MeanLambda = TypedDict("_MeanLambda", {"lambda": MeanRecord | None})


class RunFigures(_Lambda):
    """The figures of one run.

    accuracy, score_mean, completion_length_mean: held-out, after training; with `_before`: before. accuracy is the
    share of answers with a grade of 1, score_mean the mean grade.
    accuracy_area: mean accuracy over the evaluations during and after training, each weighted by the steps since the
        one before, or by the tokens sampled if `max_generated_tokens` is the budget; None without any during training.
    choosing, reported: the same on the even held-out problems, which learning rates are chosen on, and on the odd ones.
    held_out: the evaluations. machine: kind of processor and threads.
    graded: whether answers got grades other than 0 and 1.
    lambda: at the last logged step. entropy: mean over the last steps, in nats per token.
    num_tokens: prompt and completion tokens sampled for training, as TRL counts them.
    tokens_to_target: their number when the samples' accuracy first reached `target_accuracy`; None if never.
    clip_fraction: share of tokens with a clipped ratio, mean over steps.
    grad_clip_fraction: share of steps with a clipped gradient norm.
    share_by_length_quartile, share_right: shares of the weighted advantage mass f·|A|·|o|.
    informative_groups: share of groups with differing rewards, mean over steps.
    limits: the smallest and the largest possible value of a figure (`runs.limits`).
    """

    accuracy: float
    accuracy_area: float | None
    choosing: HalfRecord
    reported: HalfRecord
    score_mean: float
    graded: bool
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
    held_out: HeldOutCurve
    machine: str
    informative_groups: float | None
    limits: dict[str, list[float]]


class RunResult(RunNames, RunFigures):
    """A run that finished. chosen: whether it is at the learning rate that its arm is compared at."""

    chosen: bool


class FailureRecord(RunNames):
    """A run that failed."""

    failure: str


class SweepRecord(TypedDict):
    """An arm at one learning rate: the mean over n seeds of the held-out `figure` that rates are chosen by."""

    objective: str
    task: str
    learning_rate: float
    figure: str
    value: float
    n: int
    chosen: bool


class RateDifference(TypedDict):
    """The paired difference at one learning rate, with the interval and p of the paired t test, uncorrected."""

    learning_rate: float
    difference: float
    ci95: list[float] | None
    p: float | None
    n: int


class ComparisonRecord(TypedDict):
    """The paired difference between an objective and `against` on a task (`comparison.statistics`).

    Each is at its best learning rate; fixed_ci95 is the interval that leaves the choice of the rates out.
    p_holm: corrected over all comparisons of the study.
    effect: the difference in standard deviations of `against` over seeds.
    by_rate: the differences at each learning rate that both ran at.
    """

    objective: str
    against: str
    task: str
    endpoint: str
    difference: float
    ci95: list[float] | None
    fixed_ci95: list[float] | None
    n: int
    p: float | None
    p_holm: float | None
    effect: float | None
    detectable_difference: float | None
    by_rate: list[RateDifference]
    verdict: str
    sentence: str


class ObjectiveFigures(_MeanLambda):
    """The means over seeds of an objective on a task. None: no run has this figure."""

    objective: str
    task: str
    learning_rate: float
    accuracy: MeanRecord | None
    accuracy_area: MeanRecord | None
    score_mean: MeanRecord | None
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
    """What every run may use: optimizer steps, completion tokens. None for both: the recipe's epochs."""

    max_steps: int | None
    max_generated_tokens: int | None


class StudySettings(TypedDict):
    """The settings of a study. `objectives`: the recipe keys of each arm; `recipe`: those that all runs share.

    better: the direction of the endpoint that is better, "higher" or "lower", if any.
    """

    objectives: dict[str, dict[str, Any]]
    against: str
    tasks: list[str]
    seeds: list[int]
    learning_rates: list[float]
    more_rates: int
    endpoint: str
    better: str | None
    target_accuracy: float
    keep_checkpoints: bool
    keep_runs: bool
    model: str
    budget: Budget
    recipe: dict[str, Any]


class StudyRecord(TypedDict):
    """results.json.

    verdict: the conclusions in sentences, the most important first. readings: a sentence for each objective.
    same_methods: objectives that are the same method as another one under the settings, and that one; they didn't run.
    problems: a digest of each task's problems. runs: all that finished, at all learning rates.
    """

    study: StudySettings
    verdict: list[str]
    readings: dict[str, str]
    same_methods: dict[str, str]
    comparisons: list[ComparisonRecord]
    objectives: list[ObjectiveFigures]
    sweep: list[SweepRecord]
    failures: list[FailureRecord]
    problems: dict[str, str]
    versions: dict[str, str | None]
    git_commit: str | None
    runs: list[RunResult]
