"""The learning-rate sweep: which rate each objective is compared at."""

from __future__ import annotations

from collections.abc import Sequence

from lambda_grpo.comparison.planned_runs import PlannedRun
from lambda_grpo.comparison.study import Study
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.study_record import TuningRecord


def choose_learning_rates(study: Study, tuned: Sequence[PlannedRun]) -> list[TuningRecord]:
    """Each arm's mean accuracy at each learning rate on the tuning seeds, and the chosen rate.

    Each arm gets its best rate, the lowest in a tie. If the endpoint has no better direction, all arms get the
    rate that is best on average: different rates would be a difference between the arms. A rate with a failed run isn't
    chosen.
    """
    rates = sorted(study.learning_rates)
    values: dict[tuple[str, str, float], list[float | None]] = {}
    for one in tuned:  # in the order of the tuning seeds
        evaluation = Run(one.path).evaluation("after") if one.is_finished else None
        accuracy = None if evaluation is None else evaluation["accuracy"]
        values.setdefault((one.arm, one.task, one.learning_rate), []).append(accuracy)
    means: dict[tuple[str, str, float], float] = {}
    for key, of_seeds in values.items():
        known = [value for value in of_seeds if value is not None]
        if len(known) == len(of_seeds):
            means[key] = sum(known) / len(known)

    def best(arm: str, task: str) -> float | None:
        if study.higher_is_better:
            rated = {rate: means[arm, task, rate] for rate in rates if (arm, task, rate) in means}
        else:
            complete = [name for name in study.arms if all((name, task, rate) in means for rate in rates)]
            rated = {rate: sum(means[name, task, rate] for name in complete) for rate in rates} if complete else {}
        return max(rated, key=lambda rate: rated[rate]) if rated else None

    records: list[TuningRecord] = []
    for task in study.tasks:
        for arm in study.arms:
            chosen = best(arm, task)
            for rate in rates:
                records.append(
                    {
                        "objective": arm,
                        "task": task,
                        "learning_rate": rate,
                        "value": means.get((arm, task, rate)),
                        "values": values[arm, task, rate],
                        "chosen": rate == chosen,
                    }
                )
    return records
