"""The tables of a study's page, with notes on empty cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lambda_grpo.report.quantities import NONE, TO_TARGET, Quantity
from lambda_grpo.runs.study_record import (
    ComparisonRecord,
    FailureRecord,
    MeanRecord,
    ObjectiveFigures,
    RunResult,
    StudySettings,
    SweepRecord,
)

TOO_FEW = "fewer than two seeds have this figure, so its spread is unknown"
SAME_DIFFERENCE = "all seeds differ by the same amount, and without spread there is no test"
SAME_VALUE = "all seeds have the same value, and without spread there is no interval"
AT_THESE_RATES = "interval if the rates were given"
UNDETECTED = ("no detectable difference", "no interval")  # verdicts
CUT = "Intervals are cut to the possible values."


@dataclass(frozen=True)
class Cell:
    """A cell: its text, smaller text below it, and its CSS classes."""

    text: str
    below: str | None = None
    kind: str = "number"


def titled(title: str) -> Cell:
    """A title as a cell, with its unit below."""
    name, bracket, unit = title.partition(" (")
    return Cell(name, unit.removesuffix(")") if bracket else None, kind="")


@dataclass(frozen=True)
class Table:
    """Header (the first column names the row), rows, and notes below the table."""

    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def without(self, *columns: str) -> Table:
        """Without the columns of these titles."""
        kept = [i for i, title in enumerate(self.header) if title not in columns]
        return Table([self.header[i] for i in kept], [[row[i] for i in kept] for row in self.rows], self.notes)

    def transposed(self) -> Table:
        """With a row for each column but the first, which is the header."""
        header = [self.header[0], *(row[0].text for row in self.rows)]
        columns = [[row[i] for row in self.rows] for i in range(1, len(self.header))]
        rows = [[titled(title), *cells] for title, cells in zip(self.header[1:], columns, strict=True)]
        return Table(header, rows, self.notes)


def comparison_table(comparisons: list[ComparisonRecord], study: StudySettings, endpoint: Quantity) -> Table:
    """Each objective against `study.against`. Without any interval the columns of the tests are left out."""
    unit = endpoint.difference_unit
    tested = any(row["ci95"] is not None for row in comparisons)
    chooses = len(study["learning_rates"]) > 1
    header = ["objective", f"difference ({unit})"]
    if tested:
        header += ["95 % interval", *([AT_THESE_RATES] if chooses else []), "p", "p after Holm", "÷ spread of seeds"]
    header += ["n"]
    if tested:
        header += [f"detectable ({unit})"]
    rows = []
    detected = [row["objective"] for row in comparisons if row["verdict"] not in UNDETECTED]
    for row in comparisons:
        kind = "number chosen" if row["objective"] in detected else "number"
        cells = [Cell(row["objective"], kind=""), Cell(endpoint.difference(row["difference"]), kind=kind)]
        if tested:
            cells += [
                Cell(endpoint.difference_interval(row["ci95"])),
                *([Cell(endpoint.difference_interval(row["fixed_ci95"]))] if chooses else []),
                Cell(_p(row["p"])),
                Cell(_p(row["p_holm"])),
                Cell(NONE if row["effect"] is None else f"{row['effect']:+.1f}".replace("-", "−")),
            ]
        cells += [Cell(str(row["n"]))]
        if tested:
            cells += [Cell(endpoint.difference(row["detectable_difference"], sign="-"))]
        colour = {"better": " right", "worse": " wrong"}.get(row["verdict"], "")
        rows.append([*cells, Cell(row["verdict"], kind=f"short{colour}")])
    notes = _on_intervals(comparisons, SAME_DIFFERENCE, study)
    compared = {study["against"], *(row["objective"] for row in comparisons)}
    if left_out := [name for name in study["objectives"] if name not in compared]:
        notes.append(f"Not compared, since no seed was finished by both: {', '.join(left_out)}.")
    if detected:
        notes.append("Bold: p after Holm is below 0.05.")
    if tested:
        notes.append(f"÷ spread of seeds: the difference in standard deviations of {study['against']} over seeds.")
        notes.append(
            "Detectable: the true difference that this number of seeds detects with a probability of 80 %, at Holm's "
            "level for the first comparison."
        )
    return Table([*header, "verdict"], rows, notes)


def objective_table(
    objectives: list[ObjectiveFigures],
    runs: list[RunResult],
    study: StudySettings,
    quantities: Mapping[str, Quantity],
) -> Table:
    """The figures of each objective on a task, with 95 % intervals over seeds."""
    by_name: dict[str, Mapping[str, Any]] = {own["objective"]: own for own in objectives}
    shown = {
        key: quantity
        for key, quantity in quantities.items()
        if key != "tokens_to_target" and any(own.get(key) for own in by_name.values())
    }
    target = f"{100 * study['target_accuracy']:g}\u00a0%"
    header = ["objective", "seeds", *(quantity.titled for quantity in shown.values())]
    rows: list[list[Cell]] = []
    figures: list[MeanRecord] = []
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
                Cell(f"{to_target.text} ({reached})", to_target.below),
                Cell(NONE if rate is None else f"{rate:g}"),
            ]
        )
        figures += [figure for key in (*shown, "tokens_to_target") if (figure := own.get(key))]
    notes = [
        f"{name}: no run finished." for name in study["objectives"] if all(run["objective"] != name for run in runs)
    ]
    notes += _on_intervals(figures, SAME_VALUE, study)
    notes.append(
        f"Tokens to {target}: in thousands, until the accuracy of the samples reached it; the mean over the runs that "
        "did, with their number."
    )
    return Table([*header, f"tokens to {target} (thousand)", "learning rate"], rows, notes)


def sweep_table(sweep: list[SweepRecord], study: StudySettings, quantities: Mapping[str, Quantity]) -> Table:
    """The figure by which learning rates were chosen, of each objective at each rate."""
    quantity = quantities[sweep[0]["figure"]]
    rates = sorted({row["learning_rate"] for row in sweep})
    found = {(row["objective"], row["learning_rate"]): row for row in sweep}
    seeds = len(study["seeds"])
    rows = []
    for name in study["objectives"]:
        cells = [Cell(name, kind="")]
        for rate in rates:
            if (name, rate) not in found:
                cells.append(Cell(NONE))
                continue
            row = found[name, rate]
            mark, kind = (" ✓", "number chosen") if row["chosen"] else ("", "number")
            missing = None if row["n"] == seeds else f"{row['n']} of {seeds}"
            cells.append(Cell(quantity.number(row["value"]) + mark, missing, kind))
        rows.append(cells)
    notes = [f"✓: the rate that the objective is compared at. {NONE}: it didn't run there, or all of its runs failed."]
    if any(row["n"] < seeds for row in sweep):
        notes.append("Below: seeds that finished, where some failed.")
    return Table(["objective", *(f"{rate:g}" for rate in rates)], rows, notes)


def rate_table(comparisons: list[ComparisonRecord], endpoint: Quantity) -> Table:
    """The difference from `against` at each learning rate that both ran at, with its interval."""
    rates = sorted({row["learning_rate"] for record in comparisons for row in record["by_rate"]})
    rows = []
    for record in comparisons:
        found = {row["learning_rate"]: row for row in record["by_rate"]}
        cells = [Cell(record["objective"], kind="")]
        for rate in rates:
            if rate not in found:
                cells.append(Cell(NONE))
                continue
            row = found[rate]
            cells.append(Cell(endpoint.difference(row["difference"]), endpoint.difference_interval(row["ci95"])))
        rows.append(cells)
    notes = ["Paired t intervals, without a correction for their number."]
    return Table(["objective", *(f"{rate:g}" for rate in rates)], rows, notes)


def failure_table(failures: list[FailureRecord]) -> Table:
    """The runs that failed, with the error."""
    rows = [
        [
            Cell(row["objective"], kind=""),
            Cell(row["task"], kind=""),
            Cell(str(row["seed"])),
            Cell(f"{row['learning_rate']:g}"),
            Cell(row["failure"], kind=""),
        ]
        for row in failures
    ]
    return Table(["objective", "task", "seed", "learning rate", "failure"], rows)


def _cell(figure: MeanRecord | None, quantity: Quantity) -> Cell:
    if figure is None:
        return Cell(NONE)
    return Cell(quantity.number(figure["mean"]), quantity.interval(figure["ci95"]))


def _p(p: float | None) -> str:
    if p is None:
        return NONE
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _on_intervals(
    figures: Sequence[MeanRecord] | Sequence[ComparisonRecord], without_spread: str, study: StudySettings
) -> list[str]:
    """Notes on the intervals of figures, and on those that are missing."""
    if len(study["seeds"]) == 1:
        return ["There are no intervals and no tests: one seed doesn't show how much runs differ by chance."]
    missing = [figure["n"] for figure in figures if figure["ci95"] is None]
    reasons = sorted({TOO_FEW if n < 2 else without_spread for n in missing})
    notes = [f"{NONE} in place of an interval: {' or '.join(reasons)}."] if reasons else []
    return notes if len(missing) == len(figures) else [CUT, *notes]
