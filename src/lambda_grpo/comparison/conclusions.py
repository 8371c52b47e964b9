"""What a study found, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambda_grpo.comparison.statistics import LEVEL, NO_DIFFERENCE, NO_INTERVAL, POWER
from lambda_grpo.comparison.study import ENDPOINTS, Study
from lambda_grpo.runs.study_record import ComparisonRecord, FailureRecord, RunResult, SweepRecord


def sentence(record: ComparisonRecord) -> str:
    """A comparison in a sentence or two."""
    pair = f"{record['objective']} against {record['against']} on {record['task']}"
    difference = _with_unit(record["endpoint"], record["difference"])
    n = record["n"]
    if n == 1:
        return f"{pair}: {difference}, with one seed. One difference has no spread and no interval: use more seeds."
    if record["verdict"] == NO_INTERVAL and record["difference"] == 0:
        return f"{pair}: equal with each of {n} seeds. Without spread there is no interval and no test."
    if record["verdict"] == NO_INTERVAL:
        return f"{pair}: {difference} with each of {n} seeds. Without spread there is no interval: use more seeds."
    figures = f"{difference}, 95 % interval {_interval(record)}, n = {n}"
    if record["verdict"] == NO_DIFFERENCE:
        assert record["ci95"] is not None  # it has a verdict
        low, high = record["ci95"]
        corrected = (
            "" if low <= 0 <= high else f" The interval excludes 0, but not after Holm (p = {record['p_holm']:.3f})."
        )
        return f"{pair}: {NO_DIFFERENCE} ({figures}).{corrected}{_detectable([record])}"
    return f"{pair}: {record['verdict']} ({figures}, p = {record['p_holm']:.2g} after Holm)."


def readings(study: Study, comparisons: Sequence[ComparisonRecord], same_methods: Mapping[str, str]) -> dict[str, str]:
    """A line for each objective: on which tasks it differs from `against`, and by how much."""
    found = {}
    for arm in [*study.arms, *same_methods]:
        if arm in same_methods:
            found[arm] = f"the same method as {same_methods[arm]} under these settings"
            continue
        own = [record for record in comparisons if record["objective"] == arm]
        if not own:
            continue
        parts: dict[str, list[str]] = {}
        for record in own:
            size = f" ({_with_unit(record['endpoint'], record['difference'])}{_effect(record)})"
            differs = record["verdict"] not in (NO_DIFFERENCE, NO_INTERVAL)
            parts.setdefault(record["verdict"], []).append(record["task"] + size * differs)
        found[arm] = "; ".join(f"{word} on {', '.join(tasks)}" for word, tasks in sorted(parts.items(), key=_last))
    return found


def _effect(record: ComparisonRecord) -> str:
    effect = record["effect"]
    return "" if effect is None else f", {abs(effect):.1f} standard deviations over seeds"


def _last(part: tuple[str, list[str]]) -> bool:
    """Words without a finding come last."""
    return part[0] in (NO_DIFFERENCE, NO_INTERVAL)


def verdict_of_study(
    study: Study,
    comparisons: Sequence[ComparisonRecord],
    reported: Sequence[RunResult],
    sweep: Sequence[SweepRecord],
    failures: Sequence[FailureRecord],
    same_methods: Mapping[str, str],
) -> list[str]:
    """The conclusions in sentences, the most important first.

    Args:
        reported: the runs at the chosen learning rates.
        same_methods: objectives that didn't run, and the one that each is the same method as.
    """
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
    if same_methods:
        alike = ", ".join(f"{arm} = {other}" for arm, other in same_methods.items())
        sentences.append(f"The same methods under these settings, run once: {alike}.")
    return sentences + _by_chance(comparisons) + _caveats(study, comparisons, reported, sweep, failures)


def _by_chance(comparisons: Sequence[ComparisonRecord]) -> list[str]:
    """How many uncorrected p values are small, and how many would be without any difference."""
    p_values = [record["p"] for record in comparisons if record["p"] is not None]
    if len(p_values) < 2:
        return []
    level = 1 - LEVEL
    small = sum(p < level for p in p_values)
    return [
        f"Of {len(p_values)} comparisons {small} have p below {level:.2f} before Holm's correction, which is made over "
        f"all of them; {level * len(p_values):.1f} would be expected if no objective differed."
    ]


def _detectable(comparisons: Sequence[ComparisonRecord]) -> str:
    """A sentence on the largest of their detectable differences."""
    known = [value for record in comparisons if (value := record["detectable_difference"]) is not None]
    chance = f"with a probability of {100 * POWER:.0f} %"
    if len(known) < len(comparisons):
        return f" So few seeds would not have detected even the largest possible difference {chance}."
    endpoint = ENDPOINTS[comparisons[0]["endpoint"]]
    largest = f"{endpoint.factor * max(known):.2f} {endpoint.unit}"
    return f" A true difference of {largest} would have been detected {chance}."


def _caveats(
    study: Study,
    comparisons: Sequence[ComparisonRecord],
    reported: Sequence[RunResult],
    sweep: Sequence[SweepRecord],
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
    if failed := sorted({f"{one['objective']} on {one['task']} ({one['learning_rate']:g})" for one in failures}):
        rates = f"Learning rates at which runs failed aren't chosen: {', '.join(failed)}."
        sentences.append(f"{len(failures)} of the runs failed. {rates}")
    if edges := _edges(study, sweep):
        sentences.append(f"At an end of the learning rates, beyond which one might be better: {', '.join(edges)}.")
    if uninformative := [run for run in reported if run["informative_groups"] == 0]:
        names = ", ".join(f"{run['objective']} on {run['task']} (seed {run['seed']})" for run in uninformative)
        sentences.append(f"Runs without anything to learn from, since no group had differing rewards: {names}.")
    if graded := [task for task in study.tasks if any(run["task"] == task and run["graded"] for run in reported)]:
        sentences.append(
            f"Answers on {', '.join(graded)} aren't only right or wrong, but graded: accuracy there is the share of "
            "answers with full marks, a grade of 1."
        )
    if len({run["git_commit"] for run in reported}) > 1:
        sentences.append("The runs were made by different versions of the code: see git_commit in results.json.")
    return sentences


def _edges(study: Study, sweep: Sequence[SweepRecord]) -> list[str]:
    """The arms whose chosen rate is the lowest or highest that they ran at."""
    rates: dict[tuple[str, str], list[float]] = {}
    for record in sweep:
        rates.setdefault((record["objective"], record["task"]), []).append(record["learning_rate"])
    return [
        f"{record['objective']} on {record['task']} ({record['learning_rate']:g})"
        for record in sweep
        if record["chosen"] and study.chooses_rates
        for own in [rates[record["objective"], record["task"]]]
        if record["learning_rate"] in (min(own), max(own))
    ]


def _with_unit(endpoint: str, difference: float) -> str:
    facts = ENDPOINTS[endpoint]
    return f"{facts.factor * difference:+.2f} {facts.unit}"


def _interval(record: ComparisonRecord) -> str:
    assert record["ci95"] is not None
    return " to ".join(f"{ENDPOINTS[record['endpoint']].factor * end:+.2f}" for end in record["ci95"])
