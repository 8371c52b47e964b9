"""The content of results.json: every run and statistic of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lambda_grpo.comparison.conclusions import readings, sentence, verdict_of_study
from lambda_grpo.comparison.statistics import (
    RateValues,
    detectable_difference,
    holm,
    mean_ci95,
    paired_difference,
    verdict,
)
from lambda_grpo.comparison.study import ENDPOINTS, Study
from lambda_grpo.comparison.sweep import TaskSweep, endpoint_value, figure
from lambda_grpo.runs.limits import SHARE, Limits, limits_of
from lambda_grpo.runs.provenance import provenance
from lambda_grpo.runs.study_record import (
    ComparisonRecord,
    FailureRecord,
    ObjectiveFigures,
    RateDifference,
    RunResult,
    StudyRecord,
    StudySettings,
)

FIGURES = (  # of a run, whose mean over seeds an objective has
    "accuracy", "accuracy_area", "completion_length_mean", "entropy", "lambda", "tokens_to_target", "num_tokens",
    "clip_fraction", "grad_clip_fraction", "share_right", "score_mean",
)  # fmt: skip


def results(
    study: Study,
    runs: Sequence[RunResult],
    failures: Sequence[FailureRecord] = (),
    *,
    problems: Mapping[str, str],
    same_methods: Mapping[str, str],
) -> StudyRecord:
    """The record of a study.

    Args:
        runs: those that finished, at all learning rates; whether they are `chosen` is found here.
        failures: the runs that failed.
        problems: the digest of each task's problems.
        same_methods: objectives that didn't run, since they are the same method as one of the study's arms.
    """
    sweeps = {task: TaskSweep(study, task, runs) for task in study.tasks}
    chosen = {(arm, task): sweeps[task].chosen_rate(arm) for task in study.tasks for arm in study.arms}
    runs = [{**run, "chosen": run["learning_rate"] == chosen[run["objective"], run["task"]]} for run in runs]
    reported = [run for run in runs if run["chosen"]]
    comparisons = _comparisons(study, sweeps, reported)
    sweep = [record for task in study.tasks for record in sweeps[task].records()]
    made_with = provenance()
    return {
        "study": _study(study),
        "verdict": verdict_of_study(study, comparisons, reported, sweep, failures, same_methods),
        "readings": readings(study, comparisons, same_methods),
        "same_methods": dict(same_methods),
        "comparisons": comparisons,
        "objectives": [
            figures
            for task in study.tasks
            for arm in study.arms
            if (figures := _objective(study, arm, task, reported)) is not None
        ],
        "sweep": sweep,
        "failures": list(failures),
        "problems": dict(problems),
        "versions": made_with["versions"],
        "git_commit": made_with["git_commit"],
        "runs": list(runs),
    }


def _study(study: Study) -> StudySettings:
    keys = dict(study.keys)
    return {
        "objectives": {arm: dict(own) for arm, own in study.arms.items()},
        "against": study.against,
        "tasks": list(study.tasks),
        "seeds": list(study.seeds),
        "learning_rates": list(study.learning_rates),
        "more_rates": study.more_rates,
        "endpoint": study.endpoint,
        "better": ENDPOINTS[study.endpoint].better,
        "target_accuracy": study.target_accuracy,
        "keep_checkpoints": study.keep_checkpoints,
        "keep_runs": study.keep_runs,
        "model": keys.get("model_name_or_path") or "builtin",
        "budget": {"max_steps": keys.get("max_steps"), "max_generated_tokens": keys.get("max_generated_tokens")},
        "recipe": keys,
    }


def _objective(study: Study, arm: str, task: str, reported: Sequence[RunResult]) -> ObjectiveFigures | None:
    own = [run for run in reported if run["objective"] == arm and run["task"] == task]
    if not own:
        return None
    shares: list[Any] = [run["share_by_length_quartile"] or [None] * 4 for run in own]
    figures: Any = {
        "objective": arm,
        "task": task,
        "learning_rate": own[0]["learning_rate"],
        **{
            name: mean_ci95([figure(run, name, study.chooses_rates) for run in own], limits_of(name, own))
            for name in FIGURES
        },
        "reached_target": sum(run["tokens_to_target"] is not None for run in own),
        "share_by_length_quartile": [mean_ci95(quartile, SHARE) for quartile in zip(*shares, strict=True)],
    }
    return figures


def _comparisons(
    study: Study, sweeps: Mapping[str, TaskSweep], reported: Sequence[RunResult]
) -> list[ComparisonRecord]:
    """Each arm against `study.against` in the primary endpoint, corrected over all arms and tasks."""
    pairs = [
        (arm, task, pair)
        for task in study.tasks
        for arm in study.arms
        if arm != study.against and (pair := sweeps[task].pair(arm)) is not None
    ]
    limits = {task: limits_of(study.endpoint, [run for run in reported if run["task"] == task]) for task in study.tasks}
    differences = [paired_difference(*pair, limits[task]) for _, task, pair in pairs]
    tests = sum(one.p is not None for one in differences)
    found: list[ComparisonRecord] = []
    corrected = holm([one.p for one in differences])
    for (arm, task, _), difference, p_holm in zip(pairs, differences, corrected, strict=True):
        spread = _spread(study, sweeps[task].chosen_runs(study.against))
        record: ComparisonRecord = {
            "objective": arm,
            "against": study.against,
            "task": task,
            "endpoint": study.endpoint,
            "difference": difference.difference,
            "ci95": _pair(difference.ci95),
            "fixed_ci95": _pair(difference.fixed_ci95),
            "n": difference.n,
            "p": difference.p,
            "p_holm": p_holm,
            "effect": None if spread is None else difference.difference / spread,
            "detectable_difference": detectable_difference(difference.se, difference.n, tests, limits[task]),
            "by_rate": _by_rate(sweeps[task], arm, limits[task]),
            "verdict": verdict(difference.difference, p_holm, ENDPOINTS[study.endpoint].better),
            "sentence": "",
        }
        record["sentence"] = sentence(record)
        found.append(record)
    return found


def _spread(study: Study, runs: Sequence[RunResult]) -> float | None:
    """The standard deviation of the endpoint over seeds; None without any."""
    known = [value for run in runs if math.isfinite(value := endpoint_value(run, study))]
    return (float(np.std(known, ddof=1)) or None) if len(known) > 1 else None


def _by_rate(sweep: TaskSweep, arm: str, limits: Limits) -> list[RateDifference]:
    found: list[RateDifference] = []
    for rate in sweep.rates(arm):
        pair: tuple[RateValues, RateValues] | None = sweep.pair_at(arm, rate)
        if pair is not None:
            difference = paired_difference(*pair, limits)
            found.append(
                {
                    "learning_rate": rate,
                    "difference": difference.difference,
                    "ci95": _pair(difference.ci95),
                    "p": difference.p,
                    "n": difference.n,
                }
            )
    return found


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
