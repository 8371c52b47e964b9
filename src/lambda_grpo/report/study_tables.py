"""The tables of a study's page, with notes on empty cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lambda_grpo.runs.study_record import (
    ComparisonRecord,
    FailureRecord,
    MeanRecord,
    ObjectiveFigures,
    RunResult,
    StudySettings,
    TuningRecord,
)

NONE = "–"  # a missing number


@dataclass(frozen=True)
class Quantity:
    """The label, unit and number format of a figure."""

    label: str
    unit: str
    digits: int
    scale: float = 1

    def number(self, value: float | None) -> str:
        return NONE if value is None else f"{self.scale * value:z,.{self.digits}f}"

    def interval(self, ci95: list[float] | None) -> str:
        return NONE if ci95 is None else " – ".join(map(self.number, ci95))

    def difference(self, value: float | None, sign: str = "+") -> str:
        """A difference, with one more digit than the figures."""
        return NONE if value is None else f"{self.scale * value:{sign}z,.{self.digits + 1}f}"

    def difference_interval(self, ci95: list[float] | None) -> str:
        return NONE if ci95 is None else " to ".join(map(self.difference, ci95))

    @property
    def difference_unit(self) -> str:
        return "points" if self.unit == "%" else self.unit


QUANTITIES = {
    "accuracy": Quantity("accuracy", "%", 1, scale=100),
    "completion_length_mean": Quantity("length", "tokens", 1),
    "entropy": Quantity("entropy", "nats", 3),
    "lambda": Quantity("λ at the end", "", 3),
    "num_tokens": Quantity("prompts and completions", "tokens", 0),
    "clip_fraction": Quantity("ratios clipped", "% of tokens", 2, scale=100),
    "grad_clip_fraction": Quantity("gradient clipped", "% of steps", 1, scale=100),
}
TOO_FEW = "fewer than two seeds have this figure, so its spread is unknown"
NO_SPREAD = "all seeds differ by the same amount, and without spread there is no test"
TO_TARGET = Quantity("to the target", "tokens", 0)


@dataclass(frozen=True)
class Cell:
    """A cell: its text, smaller text below it, and its CSS classes."""

    text: str
    below: str | None = None
    kind: str = "number"


@dataclass(frozen=True)
class Table:
    """Header (the first column names the row), rows, and notes below the table."""

    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def comparison_table(comparisons: list[ComparisonRecord], study: StudySettings) -> Table:
    """Each objective against `study.against`. Without any interval the columns of the tests are left out."""
    quantity = QUANTITIES[study["endpoint"]]
    unit = quantity.difference_unit
    tested = any(row["ci95"] is not None for row in comparisons)
    header = ["objective", "against", f"difference ({unit})"]
    if tested:
        header += ["95 % interval", "bootstrap interval", "p", "p after Holm"]
    header += ["n"]
    if tested:
        header += [f"detectable ({unit})"]
    rows = []
    for row in comparisons:
        cells = [
            Cell(row["objective"], kind=""),
            Cell(row["against"], kind=""),
            Cell(quantity.difference(row["difference"])),
        ]
        if tested:
            cells += [
                Cell(quantity.difference_interval(row["ci95"])),
                Cell(quantity.difference_interval(row["bootstrap_ci95"])),
                Cell(_p(row["p"])),
                Cell(_p(row["p_holm"])),
            ]
        cells += [Cell(str(row["n"]))]
        if tested:
            cells += [Cell(quantity.difference(row["detectable_difference"], sign="-"))]
        kind = {"better": "right", "worse": "wrong"}.get(row["verdict"], "")
        rows.append([*cells, Cell(row["verdict"], kind=kind)])
    reasons = {TOO_FEW if row["n"] < 2 else NO_SPREAD for row in comparisons if row["ci95"] is None}
    notes = [_no_interval(study, " or ".join(sorted(reasons)))] if reasons else []
    compared = {study["against"], *(row["objective"] for row in comparisons)}
    if left_out := [name for name in study["objectives"] if name not in compared]:
        notes.append(f"Not compared, since no seed was finished by both: {', '.join(left_out)}.")
    if tested:
        notes.append(
            "Detectable: the true difference that this number of seeds detects with a probability of 80 %, at Holm's "
            "level for the first comparison."
        )
    return Table([*header, "verdict"], rows, notes)


def objective_table(objectives: list[ObjectiveFigures], runs: list[RunResult], study: StudySettings) -> Table:
    """The figures of each objective on a task, with 95 % intervals over seeds."""
    by_name: dict[str, Mapping[str, Any]] = {own["objective"]: own for own in objectives}
    shown = {key: quantity for key, quantity in QUANTITIES.items() if any(own.get(key) for own in by_name.values())}
    target = f"{TO_TARGET.label} of {QUANTITIES['accuracy'].number(study['target_accuracy'])}\u00a0%"
    header = ["objective", "seeds", *(_titled(quantity) for quantity in shown.values())]
    rows, figures, partly = [], [], False
    for name in study["objectives"]:
        finished = sum(run["objective"] == name for run in runs)
        own = by_name.get(name, {})
        rate, reached = own.get("learning_rate"), own.get("reached_target", 0)
        to_target = _cell(own.get("tokens_to_target"), TO_TARGET)
        rows.append(
            [
                Cell(name, kind=""),
                Cell(f"{finished} of {len(study['seeds'])}"),
                *(_cell(own.get(key), quantity) for key, quantity in shown.items()),
                Cell(f"{to_target.text} ({reached} of {finished})", to_target.below),
                Cell(NONE if rate is None else f"{rate:g}"),
            ]
        )
        figures += [own.get(key) for key in (*shown, "tokens_to_target")]
        partly |= 0 < reached < finished
    notes = [
        f"{name}: no run finished." for name in study["objectives"] if all(run["objective"] != name for run in runs)
    ]
    if any(figure and figure["ci95"] is None for figure in figures):
        notes.append(_no_interval(study))
    if partly:
        notes.append("Tokens to reach the target are the mean over the runs that reached it.")
    return Table([*header, f"{target} (tokens; runs that reached it)", "learning rate"], rows, notes)


def sweep_table(tuning: list[TuningRecord], study: StudySettings) -> Table:
    """The mean accuracy of each objective at each learning rate, with that of each seed below it."""
    quantity = QUANTITIES["accuracy"]
    rates = sorted({row["learning_rate"] for row in tuning})
    found = {(row["objective"], row["learning_rate"]): row for row in tuning}
    rows = []
    for name in study["objectives"]:
        cells = [Cell(name, kind="")]
        for rate in rates:
            if (name, rate) not in found:
                cells.append(Cell(NONE, ""))
                continue
            row = found[name, rate]
            seeds = ", ".join(map(quantity.number, row["values"]))
            mark, kind = (" ✓", "number chosen") if row["chosen"] else ("", "number")
            cells.append(Cell(quantity.number(row["value"]) + mark, seeds, kind))
        rows.append(cells)
    notes = [f"✓: chosen. {NONE}: a run failed or is missing."]
    return Table(["objective", *(f"{rate:g}" for rate in rates)], rows, notes)


def failure_table(failures: list[FailureRecord], study: StudySettings) -> Table:
    """The runs that failed, with the error."""
    rows = [
        [
            Cell(row["objective"], kind=""),
            Cell(row["task"], kind=""),
            Cell(str(row["seed"]), "tuning" if row["seed"] in study["tuning_seeds"] else None),
            Cell(f"{row['learning_rate']:g}"),
            Cell(row["failure"], kind=""),
        ]
        for row in failures
    ]
    return Table(["objective", "task", "seed", "learning rate", "failure"], rows)


def _titled(quantity: Quantity) -> str:
    return f"{quantity.label} ({quantity.unit})" if quantity.unit else quantity.label


def _cell(figure: MeanRecord | None, quantity: Quantity) -> Cell:
    if figure is None:
        return Cell(NONE)
    return Cell(quantity.number(figure["mean"]), quantity.interval(figure["ci95"]))


def _p(p: float | None) -> str:
    if p is None:
        return NONE
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _no_interval(study: StudySettings, why: str = TOO_FEW) -> str:
    if len(study["seeds"]) == 1:
        return "There are no intervals and no tests: one seed doesn't show how much runs differ by chance."
    return f"{NONE} in place of an interval: {why}."
