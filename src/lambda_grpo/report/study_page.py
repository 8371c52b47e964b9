"""report.html of a study: a self-contained page that opens offline, and its figures as files for a paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lambda_grpo.files import write_bytes, write_text
from lambda_grpo.report.rendering import render
from lambda_grpo.report.study_charts import KINDS, task_charts
from lambda_grpo.report.study_figure import Chart
from lambda_grpo.report.study_tables import (
    QUANTITIES,
    comparison_table,
    failure_table,
    objective_table,
    sweep_table,
)
from lambda_grpo.runs.study_record import Budget, StudyRecord


def write_study_report(results: StudyRecord, directory: Path) -> Path:
    """Write DIRECTORY/report.html and DIRECTORY/figures/ from the record of a study, and return the page's path."""
    study = results["study"]
    tasks = [_task(results, task) for task in study["tasks"]]
    figures = directory / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    written = set()
    for task, name in zip(tasks, _file_names(study["tasks"]), strict=True):
        for kind, chart in task["charts"].items():
            written.add(write_text(figures / f"{name}-{kind}.svg", chart.svg))
            written.add(write_bytes(figures / f"{name}-{kind}.png", chart.png))
    for kind in KINDS:  # figures of tasks that the study had earlier
        for path in {*figures.glob(f"*-{kind}.svg"), *figures.glob(f"*-{kind}.png")} - written:
            path.unlink()
    page = render(
        "study.html.j2",
        verdict=results["verdict"],
        made_with=results,
        study=study,
        quantity=QUANTITIES[study["endpoint"]],
        budget=_budget(study["budget"]),
        rates=", ".join(f"{rate:g}" for rate in study["learning_rates"]),
        runs=len(results["runs"]),
        intervals=len(study["seeds"]) > 1,
        tasks=tasks,
        charts=_by_kind(tasks),
        failures=failure_table(results["failures"], study) if results["failures"] else None,
    )
    return write_text(directory / "report.html", page)


def _task(results: StudyRecord, task: str) -> dict[str, Any]:
    """The part of the page on one task."""
    study = results["study"]
    runs = [run for run in results["runs"] if run["task"] == task]
    objectives = [figures for figures in results["objectives"] if figures["task"] == task]
    comparisons = [comparison for comparison in results["comparisons"] if comparison["task"] == task]
    tuning = [record for record in results["tuning"] if record["task"] == task]
    return {
        "name": task,
        "comparisons": comparison_table(comparisons, study) if comparisons else None,
        "sentences": [row["sentence"] for row in comparisons],
        "objectives": objective_table(objectives, runs, study) if runs else None,
        "sweep": sweep_table(tuning, study) if tuning else None,
        "charts": task_charts(study, runs, objectives, comparisons),
    }


def _budget(budget: Budget) -> str:
    return f"{budget['max_steps']:,} steps" if budget["max_steps"] else "the recipe's epochs"


def _by_kind(tasks: list[dict[str, Any]]) -> dict[str, list[tuple[str, Chart]]]:
    """The charts by kind, one per task."""
    return {kind: [(task["name"], task["charts"][kind]) for task in tasks if kind in task["charts"]] for kind in KINDS}


def _file_names(tasks: list[str]) -> list[str]:
    """A distinct file name for each task, which may be an import path."""
    names: list[str] = []
    for task in tasks:
        name = re.sub(r"[^A-Za-z0-9_]+", "-", task)
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return names
