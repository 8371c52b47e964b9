"""The learning-rate sweep of a task: which rate each arm is compared at, and which rates are still to be tried.

All arms run at all rates with all seeds. An arm gets the rate with the best mean over seeds of `Study.choice`, on
held-out problems that aren't reported (`measures.halves`). Where the endpoint has no better direction, all arms get the
rate that is best on average: different rates would be a difference between the arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lambda_grpo.comparison.planned_runs import Rates
from lambda_grpo.comparison.statistics import RateValues
from lambda_grpo.comparison.study import ENDPOINTS, Study
from lambda_grpo.runs.study_record import RunResult, SweepRecord


class TaskSweep:
    """The finished runs of a task, by arm, learning rate and seed."""

    def __init__(self, study: Study, task: str, runs: Sequence[RunResult]):
        self.study, self.task = study, task
        self._runs: dict[str, dict[float, dict[int, RunResult]]] = {arm: {} for arm in study.arms}
        for run in runs:
            if run["task"] == task:
                self._runs[run["objective"]].setdefault(run["learning_rate"], {})[run["seed"]] = run
        self._is_common = ENDPOINTS[study.endpoint].better is None

    def usable_rates(self, arm: str) -> list[float]:
        """The rates, ascending, at which no run failed; if there are none, the one with the fewest failures."""
        own = self._runs[arm]
        whole = [rate for rate in sorted(own) if len(own[rate]) == len(self.study.seeds)]
        return whole or [max(sorted(own), key=lambda rate: len(own[rate]))] if own else []

    def chosen_rate(self, arm: str) -> float | None:
        """The rate that an arm is compared at, the lowest in a tie; None if no run finished there."""
        rates = self._common_rates() if self._is_common else self.usable_rates(arm)
        if not rates or not self._runs[arm]:
            return None
        arms = self._complete_arms() if self._is_common else [arm]
        means = [np.mean([self._choice(name, rate) for name in arms]) for rate in rates]
        best = rates[int(np.argmax(means))]
        return best if best in self._runs[arm] else None

    def chosen_runs(self, arm: str) -> list[RunResult]:
        """The runs at the chosen rate, in order of seeds."""
        return [] if (rate := self.chosen_rate(arm)) is None else self.runs_at(arm, rate)

    def runs_at(self, arm: str, rate: float) -> list[RunResult]:
        """The finished runs at a rate, in order of seeds."""
        own = self._runs[arm].get(rate, {})
        return [own[seed] for seed in self.study.seeds if seed in own]

    def rates(self, arm: str) -> list[float]:
        """The rates, ascending, at which a run finished."""
        return sorted(self._runs[arm])

    def pair(self, arm: str) -> tuple[RateValues, RateValues] | None:
        """The values of an arm and of `against` over the seeds that both have; None if there is nothing to compare."""
        against = self.study.against
        if self._is_common:
            rates = {name: self._common_rates() for name in (arm, against)}
        else:
            rates = {name: self.usable_rates(name) for name in (arm, against)}
        if not all(rates.values()) or any(rate not in self._runs[name] for name in rates for rate in rates[name]):
            return None
        values = {name: self._values(name, rates[name]) for name in rates}
        seeds = [i for i in range(len(self.study.seeds)) if all(np.isfinite(v[:, i]).all() for v in values.values())]
        if not seeds:
            return None
        of_arm, of_against = (
            RateValues(self._choices(name, rates[name])[:, seeds], values[name][:, seeds]) for name in (arm, against)
        )
        return of_arm, of_against

    def pair_at(self, arm: str, rate: float) -> tuple[RateValues, RateValues] | None:
        """The same at one rate; None if one of them has no run there."""
        against = self.study.against
        values = [self._values(name, [rate]) for name in (arm, against) if rate in self._runs[name]]
        if len(values) < 2 or not (both := np.isfinite(values[0] + values[1]).all(axis=0)).any():
            return None
        of_arm, of_against = (RateValues(one[:, both], one[:, both]) for one in values)
        return of_arm, of_against

    def records(self) -> list[SweepRecord]:
        """Each arm's choice figure at each rate."""
        found: list[SweepRecord] = []
        for arm in self.study.arms:
            chosen = self.chosen_rate(arm)
            for rate in self.rates(arm):
                values = [_choice(run, self.study) for run in self.runs_at(arm, rate)]
                found.append(
                    {
                        "objective": arm,
                        "task": self.task,
                        "learning_rate": rate,
                        "figure": self.study.choice,
                        "value": float(np.mean(values)),
                        "n": len(values),
                        "chosen": rate == chosen,
                    }
                )
        return found

    def rates_beyond(self, tried: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """For each arm whose best rate is at an end of those tried, the next one, while `more_rates` allows it."""
        study, found = self.study, {}
        for arm in study.arms:
            rates, best = tried[arm], self.chosen_rate(arm)
            if not study.chooses_rates or best is None or len(rates) - len(study.learning_rates) >= study.more_rates:
                continue
            if best == max(rates):
                found[arm] = _rounded(rates[-1] ** 2 / rates[-2])
            elif best == min(rates):
                found[arm] = _rounded(rates[0] ** 2 / rates[1])
        return found

    def _complete_arms(self) -> list[str]:
        return [arm for arm in self.study.arms if len(self.usable_rates(arm)) == len(self.rates(arm)) > 0]

    def _common_rates(self) -> list[float]:
        complete = self._complete_arms()
        return sorted(set.intersection(*(set(self.usable_rates(arm)) for arm in complete))) if complete else []

    def _choice(self, arm: str, rate: float) -> float:
        return float(np.mean([_choice(run, self.study) for run in self.runs_at(arm, rate)]))

    def _choices(self, arm: str, rates: Sequence[float]) -> Any:
        """(rates, seeds), NaN for a run that failed; the mean over arms where all have a common rate."""
        arms = self._complete_arms() if self._is_common else [arm]
        return np.mean([self._table(name, rates, lambda run: _choice(run, self.study)) for name in arms], axis=0)

    def _values(self, arm: str, rates: Sequence[float]) -> Any:
        """The endpoint, (rates, seeds), NaN for a run that failed or has no value."""
        return self._table(arm, rates, lambda run: endpoint_value(run, self.study))

    def _table(self, arm: str, rates: Sequence[float], figure: Any) -> Any:
        own = self._runs[arm]
        rows = [[figure(own[rate][s]) if s in own[rate] else math.nan for s in self.study.seeds] for rate in rates]
        return np.array(rows, dtype=float)


def _choice(run: RunResult, study: Study) -> float:
    figures: Mapping[str, Any] = run["choosing"]
    return float(figures[study.choice])


def endpoint_value(run: RunResult, study: Study) -> float:
    """The primary endpoint of a run, NaN if it has none. A target that wasn't reached counts as all of its tokens."""
    name = study.endpoint
    value = figure(run, name, study.chooses_rates)
    if name == "tokens_to_target" and value is None:
        value = run["num_tokens"]
    return math.nan if value is None else float(value)


def figure(run: RunResult, name: str, chooses_rates: bool) -> float | None:
    """A figure of a run: on the reported problems where the others choose the learning rate, otherwise on all."""
    reported: Mapping[str, Any] = run["reported"] if chooses_rates else {}
    figures: Mapping[str, Any] = run
    value: float | None = reported.get(name, figures.get(name))
    return value


def next_rates(study: Study, rates: Rates, runs: Sequence[RunResult]) -> dict[tuple[str, str], tuple[float, ...]]:
    """The learning rates of each arm and task, with those beyond an end where the best one is."""
    wider = {key: tuple(of_arm) for key, of_arm in rates.items()}
    for task in study.tasks:
        sweep = TaskSweep(study, task, runs)
        for arm, rate in sweep.rates_beyond({arm: rates[arm, task] for arm in study.arms}).items():
            wider[arm, task] = tuple(sorted({*wider[arm, task], rate}))
    return wider


def _rounded(rate: float) -> float:
    """To three digits, which folder names show."""
    return float(f"{rate:.3g}")
