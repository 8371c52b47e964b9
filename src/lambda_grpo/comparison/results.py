"""The content of results.json: every run and statistic of a study, and its conclusions in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lambda_grpo.comparison.statistics import (
    ANYTHING,
    NO_DIFFERENCE,
    NO_INTERVAL,
    POWER,
    Limits,
    detectable_difference,
    holm,
    mean_ci95,
    paired_difference,
    verdict,
)
from lambda_grpo.comparison.study import ENDPOINTS, Study
from lambda_grpo.runs.provenance import provenance
from lambda_grpo.runs.study_record import (
    ComparisonRecord,
    FailureRecord,
    ObjectiveFigures,
    RunResult,
    StudyRecord,
    StudySettings,
    TuningRecord,
)

FIGURES = (  # of a run, whose mean over seeds an objective has
    "accuracy", "completion_length_mean", "entropy", "lambda", "tokens_to_target", "num_tokens", "clip_fraction",
    "grad_clip_fraction", "share_right",
)  # fmt: skip
# The range of each figure, unless a run has its own `limits`
LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("accuracy", "clip_fraction", "grad_clip_fraction", "share_right"), (0.0, 1.0)),
    **dict.fromkeys(("completion_length_mean", "entropy", "tokens_to_target", "num_tokens"), (0.0, math.inf)),
}


def results(
    study: Study,
    runs: Sequence[RunResult],
    tuning: Sequence[TuningRecord],
    failures: Sequence[FailureRecord],
) -> StudyRecord:
    """The record of a study.

    Args:
        runs: the reported runs that finished.
        tuning: one record per arm, task and learning rate of the sweep.
        failures: the runs that failed.
    """
    comparisons = [comparison for task in study.tasks for comparison in _comparisons(study, task, runs)]
    made_with = provenance()
    return {
        "study": _study(study),
        "verdict": _verdict(study, comparisons, runs, tuning, failures),
        "comparisons": comparisons,
        "objectives": [
            figures
            for task in study.tasks
            for arm in study.arms
            if (figures := _objective(arm, task, runs)) is not None
        ],
        "tuning": list(tuning),
        "failures": list(failures),
        "runs": list(runs),
        "versions": made_with["versions"],
        "git_commit": made_with["git_commit"],
    }


def _study(study: Study) -> StudySettings:
    keys = dict(study.keys)
    return {
        "objectives": {arm: dict(own) for arm, own in study.arms.items()},
        "against": study.against,
        "tasks": list(study.tasks),
        "seeds": list(study.seeds),
        "tuning_seeds": list(study.tuning_seeds),
        "learning_rates": list(study.learning_rates),
        "endpoint": study.endpoint,
        "target_accuracy": study.target_accuracy,
        "keep_checkpoints": study.keep_checkpoints,
        "model": keys.get("model_name_or_path") or "builtin",
        "budget": {"max_steps": keys.get("max_steps")},
        "recipe": keys,
    }


def _objective(arm: str, task: str, runs: Sequence[RunResult]) -> ObjectiveFigures | None:
    own = [run for run in runs if run["objective"] == arm and run["task"] == task]
    if not own:
        return None
    shares: list[Any] = [run["share_by_length_quartile"] or [None] * 4 for run in own]
    figures: Any = {
        "objective": arm,
        "task": task,
        "learning_rate": own[0]["learning_rate"],
        **{name: mean_ci95([_figure(run, name) for run in own], _limits(name, own)) for name in FIGURES},
        "reached_target": sum(run["tokens_to_target"] is not None for run in own),
        "share_by_length_quartile": [mean_ci95(quartile, (0.0, 1.0)) for quartile in zip(*shares, strict=True)],
    }
    return figures


def _figure(run: RunResult, name: str) -> float | None:
    figures: Mapping[str, Any] = run
    return figures[name]


def _limits(figure: str, runs: Sequence[RunResult]) -> Limits:
    """The range of a figure of these runs."""
    of_runs = [limits for run in runs if (limits := run.get("limits", {}).get(figure))]
    if not of_runs:  # runs of earlier versions lack them
        return LIMITS.get(figure, ANYTHING)
    return min(low for low, _ in of_runs), max(high for _, high in of_runs)


def _comparisons(study: Study, task: str, runs: Sequence[RunResult]) -> list[ComparisonRecord]:
    """Each arm against `study.against` in the primary endpoint, corrected over the arms of this task."""
    values: dict[str, dict[int, float]] = {arm: {} for arm in study.arms}
    for run in runs:
        value = _figure(run, study.endpoint)
        if run["task"] == task and value is not None and math.isfinite(value):
            values[run["objective"]][run["seed"]] = value
    others = [arm for arm in study.arms if arm != study.against and values[arm].keys() & values[study.against].keys()]
    limits = _limits(study.endpoint, [run for run in runs if run["task"] == task])
    differences = [paired_difference(values[arm], values[study.against], limits) for arm in others]
    tests = sum(one.p is not None for one in differences)
    comparisons: list[ComparisonRecord] = []
    for arm, difference, p_holm in zip(others, differences, holm([one.p for one in differences]), strict=True):
        comparison: ComparisonRecord = {
            "objective": arm,
            "against": study.against,
            "task": task,
            "endpoint": study.endpoint,
            "difference": difference.difference,
            "ci95": _pair(difference.ci95),
            "n": difference.n,
            "bootstrap_ci95": _pair(difference.bootstrap_ci95),
            "p": difference.p,
            "p_holm": p_holm,
            "detectable_difference": detectable_difference(difference.sd, difference.n, tests, limits),
            "verdict": verdict(difference.difference, p_holm, study.higher_is_better),
            "sentence": "",
        }
        comparison["sentence"] = _sentence(comparison)
        comparisons.append(comparison)
    return comparisons


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _sentence(record: ComparisonRecord) -> str:
    unit, factor, _ = ENDPOINTS[record["endpoint"]]
    pair = f"{record['objective']} against {record['against']} on {record['task']}"
    difference = f"{factor * record['difference']:+.2f} {unit}"
    n = record["n"]
    if n == 1:
        return f"{pair}: {difference}, with one seed. One difference has no spread and no interval: use more seeds."
    if record["verdict"] == NO_INTERVAL and record["difference"] == 0:
        return f"{pair}: equal with each of {n} seeds. Without spread there is no interval and no test."
    if record["verdict"] == NO_INTERVAL:
        return f"{pair}: {difference} with each of {n} seeds. Without spread there is no interval: use more seeds."
    assert record["ci95"] is not None  # it has a verdict
    low, high = (factor * end for end in record["ci95"])
    figures = f"{difference}, 95 % interval {low:+.2f} to {high:+.2f}, n = {n}"
    if record["verdict"] == NO_DIFFERENCE:
        corrected = (
            "" if low <= 0 <= high else f" The interval excludes 0, but not after Holm (p = {record['p_holm']:.3f})."
        )
        return f"{pair}: {NO_DIFFERENCE} ({figures}).{corrected}{_detectable([record])}"
    return f"{pair}: {record['verdict']} ({figures}, p = {record['p_holm']:.2g} after Holm)."


def _verdict(
    study: Study,
    comparisons: Sequence[ComparisonRecord],
    runs: Sequence[RunResult],
    tuning: Sequence[TuningRecord],
    failures: Sequence[FailureRecord],
) -> list[str]:
    """The conclusions in sentences, the most important first."""
    found = [record for record in comparisons if record["verdict"] not in (NO_DIFFERENCE, NO_INTERVAL)]
    undetected = [record for record in comparisons if record["verdict"] == NO_DIFFERENCE]
    untested = [record for record in comparisons if record["verdict"] == NO_INTERVAL]
    sentences = [record["sentence"] for record in found]
    if undetected and not found:
        sentences.append(
            f"No objective differs detectably from {study.against} in {study.endpoint} "
            f"(n = {min(record['n'] for record in undetected)} seeds).{_detectable(undetected)}"
        )
    elif undetected:
        names = ", ".join(f"{record['objective']} on {record['task']}" for record in undetected)
        sentences.append(f"No detectable difference from {study.against}: {names}.{_detectable(undetected)}")
    if len(study.seeds) == 1 and untested:
        sentences.append(
            "With one seed the objectives can't be told apart, since runs also differ by their seeds. There are no "
            "intervals: use more seeds."
        )
    else:
        sentences += [record["sentence"] for record in untested]
    if len(study.tasks) > 1 and comparisons:
        sentences.append(
            "P values are corrected for the number of objectives of a task, but not for the number of tasks."
        )
    return sentences + _caveats(study, comparisons, runs, tuning, failures)


def _detectable(comparisons: Sequence[ComparisonRecord]) -> str:
    """A sentence on the largest of their detectable differences."""
    known = [value for record in comparisons if (value := record["detectable_difference"]) is not None]
    chance = f"with a probability of {100 * POWER:.0f} %"
    if len(known) < len(comparisons):
        return f" So few seeds would not have detected even the largest possible difference {chance}."
    unit, factor, _ = ENDPOINTS[comparisons[0]["endpoint"]]
    return f" A true difference of {factor * max(known):.2f} {unit} would have been detected {chance}."


def _caveats(
    study: Study,
    comparisons: Sequence[ComparisonRecord],
    runs: Sequence[RunResult],
    tuning: Sequence[TuningRecord],
    failures: Sequence[FailureRecord],
) -> list[str]:
    """The caveats in sentences."""
    sentences = []
    compared = {(record["objective"], record["task"]) for record in comparisons}
    missing = [
        f"{arm} on {task}"
        for task in study.tasks
        for arm in study.arms
        if arm != study.against and (arm, task) not in compared
    ]
    if missing:
        sentences.append(f"Not compared, since they lack finished runs with a value: {', '.join(missing)}.")
    if narrow := sorted({f"{record['objective']} on {record['task']}" for record in tuning if record["value"] is None}):
        sentences.append(f"Runs of the sweep failed, so fewer learning rates were tried: {', '.join(narrow)}.")
    rates = (min(study.learning_rates), max(study.learning_rates))
    edges = [
        f"{record['objective']} on {record['task']} ({record['learning_rate']:g})"
        for record in tuning
        if record["chosen"] and record["learning_rate"] in rates
    ]
    if edges:
        sentences.append(f"At the edge of the sweep, so that a rate beyond it might be better: {', '.join(edges)}.")
    if failures:
        word = "run" if len(failures) == 1 else "runs"
        sentences.append(f"{len(failures)} {word} failed; they are listed below and left out.")
    if uninformative := [run for run in runs if run.get("informative_groups") == 0]:
        names = ", ".join(f"{run['objective']} on {run['task']} (seed {run['seed']})" for run in uninformative)
        sentences.append(f"Runs without anything to learn from, since no group had differing rewards: {names}.")
    if len({run.get("git_commit") for run in runs}) > 1:
        sentences.append("The runs were made by different versions of the code: see git_commit in results.json.")
    return sentences
