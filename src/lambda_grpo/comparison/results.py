"""results.json: every run and every statistic of a study, and what they say in words."""

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

FIGURES = (
    "accuracy", "completion_length_mean", "entropy", "lambda", "tokens_to_target", "num_tokens", "clip_fraction",
    "grad_clip_fraction", "share_right",
)  # fmt: skip
# What a figure can be, whatever the recipe; a run's own `limits` come before these
POSSIBLE: dict[str, Limits] = {
    **dict.fromkeys(("accuracy", "clip_fraction", "grad_clip_fraction", "share_right"), (0.0, 1.0)),
    **dict.fromkeys(("completion_length_mean", "entropy", "tokens_to_target", "num_tokens"), (0.0, math.inf)),
}


def results(
    study: Study,
    runs: Sequence[Mapping[str, Any]],
    tuning: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All of it, as JSON has it.

    Args:
        runs: the reported ones that finished: objective, task, seed, learning_rate and what `measure` found.
        tuning: a row for each arm, task and learning rate of the sweep.
        failures: runs that didn't finish, with a word on why.
    """
    comparisons = [row for task in study.tasks for row in _comparisons(study, task, runs)]
    return {
        "study": _study(study),
        "verdict": _verdict(study, comparisons, runs, tuning, failures),
        "comparisons": comparisons,
        "objectives": [
            row for task in study.tasks for arm in study.arms if (row := _objective(arm, task, runs)) is not None
        ],
        "tuning": list(tuning),
        "failures": list(failures),
        "runs": list(runs),
    }


def _study(study: Study) -> dict[str, Any]:
    fields = study.to_dict()
    keys = fields.pop("keys")
    return {
        "objectives": fields.pop("arms"),
        **fields,
        "model": keys.get("model_name_or_path") or "builtin",
        "budget": {"max_steps": keys.get("max_steps")},
        "recipe": keys,
    }


def _objective(arm: str, task: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    own = [run for run in runs if run["objective"] == arm and run["task"] == task]
    if not own:
        return None
    shares = [run["share_by_length_quartile"] or [None] * 4 for run in own]
    return {
        "objective": arm,
        "task": task,
        "learning_rate": own[0]["learning_rate"],
        **{name: mean_ci95([run[name] for run in own], _limits(name, own)) for name in FIGURES},
        "reached_target": sum(run["tokens_to_target"] is not None for run in own),
        "share_by_length_quartile": [mean_ci95(quarter, (0.0, 1.0)) for quarter in zip(*shares, strict=True)],
    }


def _limits(figure: str, runs: Sequence[Mapping[str, Any]]) -> Limits:
    """What a figure of these runs can be."""
    of_runs = [own for run in runs if (own := run.get("limits", {}).get(figure))]
    if not of_runs:  # runs of earlier versions don't tell theirs
        return POSSIBLE.get(figure, ANYTHING)
    return min(low for low, _ in of_runs), max(high for _, high in of_runs)


def _comparisons(study: Study, task: str, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each arm against the one, on the primary endpoint; corrected over the arms of this task."""
    values: dict[str, dict[int, float]] = {arm: {} for arm in study.arms}
    for run in runs:
        value = run[study.endpoint]
        if run["task"] == task and value is not None and math.isfinite(value):
            values[run["objective"]][run["seed"]] = value
    others = [arm for arm in study.arms if arm != study.against and values[arm].keys() & values[study.against].keys()]
    limits = _limits(study.endpoint, [run for run in runs if run["task"] == task])
    found = [paired_difference(values[arm], values[study.against], limits) for arm in others]
    tested = sum(one.p is not None for one in found)
    rows = []
    for arm, difference, p_holm in zip(others, found, holm([one.p for one in found]), strict=True):
        row = {
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
            "detectable_difference": detectable_difference(difference.sd, difference.n, tested, limits),
            "verdict": verdict(difference.difference, p_holm, study.has_better_side),
        }
        rows.append({**row, "sentence": _sentence(row)})
    return rows


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _sentence(row: Mapping[str, Any]) -> str:
    unit, factor, _ = ENDPOINTS[row["endpoint"]]
    pair = f"{row['objective']} against {row['against']} on {row['task']}"
    difference = f"{factor * row['difference']:+.2f} {unit}"
    if row["n"] == 1:
        return f"{pair}: {difference}, with one seed. One difference has no spread, so no interval: take more seeds."
    if row["verdict"] == NO_INTERVAL and row["difference"] == 0:
        return f"{pair}: the same with each of {row['n']} seeds. Without spread there is no interval and no test."
    if row["verdict"] == NO_INTERVAL:
        return (
            f"{pair}: {difference} with each of {row['n']} seeds. Without spread there is no interval: take more seeds."
        )
    low, high = (factor * end for end in row["ci95"])
    figures = f"{difference}, 95 % interval {low:+.2f} to {high:+.2f}, n = {row['n']}"
    if row["verdict"] == NO_DIFFERENCE:
        corrected = (
            "" if low <= 0 <= high else f" The interval leaves 0 out, but not after Holm (p = {row['p_holm']:.3f})."
        )
        return f"{pair}: {NO_DIFFERENCE} ({figures}).{corrected}{_would_be_found([row])}"
    return f"{pair}: {row['verdict']} ({figures}, p = {row['p_holm']:.2g} after Holm)."


def _verdict(
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    tuning: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What a reader should take away, most important first."""
    found = [row for row in rows if row["verdict"] not in (NO_DIFFERENCE, NO_INTERVAL)]
    silent = [row for row in rows if row["verdict"] == NO_DIFFERENCE]
    untold = [row for row in rows if row["verdict"] == NO_INTERVAL]
    sentences = [row["sentence"] for row in found]
    if silent and not found:
        sentences.append(
            f"No objective differs detectably from {study.against} in {study.endpoint} "
            f"(n = {min(row['n'] for row in silent)} seeds).{_would_be_found(silent)}"
        )
    elif silent:
        names = ", ".join(f"{row['objective']} on {row['task']}" for row in silent)
        sentences.append(f"No detectable difference from {study.against}: {names}.{_would_be_found(silent)}")
    if len(study.seeds) == 1 and untold:
        sentences.append(
            "With one seed nothing can be said about the objectives: runs differ by their seeds, too. There are no "
            "intervals; take more seeds."
        )
    else:
        sentences += [row["sentence"] for row in untold]
    if len(study.tasks) > 1 and rows:
        sentences.append(
            "Each task is corrected for its number of objectives; nothing corrects for the number of tasks."
        )
    return sentences + _reservations(study, rows, runs, tuning, failures)


def _would_be_found(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the greatest of their detectable differences."""
    known = [row["detectable_difference"] for row in rows]
    chance = f"with a probability of {100 * POWER:.0f} %"
    if None in known:
        return f" So few seeds would not have found even the greatest possible difference {chance}."
    unit, factor, _ = ENDPOINTS[rows[0]["endpoint"]]
    return f" A true difference of {factor * max(known):.2f} {unit} would have been found {chance}."


def _reservations(
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    tuning: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What a reader should know before trusting it."""
    sentences = []
    compared = {(row["objective"], row["task"]) for row in rows}
    missing = [
        f"{arm} on {task}"
        for task in study.tasks
        for arm in study.arms
        if arm != study.against and (arm, task) not in compared
    ]
    if missing:
        sentences.append(f"Not compared, for want of finished runs with a figure: {', '.join(missing)}.")
    if narrow := sorted({f"{row['objective']} on {row['task']}" for row in tuning if row["value"] is None}):
        sentences.append(f"Runs of the sweep failed, so fewer learning rates were tried: {', '.join(narrow)}.")
    rates = (min(study.learning_rates), max(study.learning_rates))
    edges = [
        f"{row['objective']} on {row['task']} ({row['learning_rate']:g})"
        for row in tuning
        if row["chosen"] and row["learning_rate"] in rates
    ]
    if edges:
        sentences.append(f"At the edge of the sweep, where a rate beyond it could be better: {', '.join(edges)}.")
    if failures:
        word = "run" if len(failures) == 1 else "runs"
        sentences.append(f"{len(failures)} {word} failed, named below and left out.")
    if silent := [run for run in runs if run.get("informative_groups") == 0]:
        names = ", ".join(f"{run['objective']} on {run['task']} (seed {run['seed']})" for run in silent)
        sentences.append(f"Nothing to learn from, since no group had differing rewards: {names}.")
    if len({run.get("git_commit") for run in runs}) > 1:
        sentences.append("The runs were made by different versions of the code: see git_commit in results.json.")
    return sentences
