"""report.html of a study: one self-contained page that opens offline, and its figures as files for a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

BUDGETS = {"max_steps": "steps"}


def write_study_report(results: Mapping[str, Any], directory: Path) -> Path:
    """Write DIRECTORY/report.html and DIRECTORY/figures/ from what results.json holds, and return the page's path."""
    study = results["study"]
    tasks = [_task(results, task) for task in study["tasks"]]
    figures = directory / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    written = set()
    for task, plain in zip(tasks, _file_names(study["tasks"]), strict=True):
        for kind, chart in task["charts"].items():
            written.add(write_text(figures / f"{plain}-{kind}.svg", chart.svg))
            written.add(write_bytes(figures / f"{plain}-{kind}.png", chart.png))
    for kind in KINDS:  # of tasks that the study had before
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


def _task(results: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What the page shows of one task."""
    study = results["study"]
    runs, entries, comparisons, tuning = (
        [row for row in results[part] if row["task"] == task]
        for part in ("runs", "objectives", "comparisons", "tuning")
    )
    return {
        "name": task,
        "comparisons": comparison_table(comparisons, study) if comparisons else None,
        "sentences": [row["sentence"] for row in comparisons],
        "objectives": objective_table(entries, runs, study) if runs else None,
        "sweep": sweep_table(tuning, study) if tuning else None,
        "charts": task_charts(study, runs, entries, comparisons),
    }


def _budget(budget: Mapping[str, int | None]) -> str:
    return ", ".join(f"{amount:,} {BUDGETS[key]}" for key, amount in budget.items() if amount) or "the recipe's epochs"


def _by_kind(tasks: list[dict[str, Any]]) -> dict[str, list[tuple[str, Chart]]]:
    """All tasks' charts of a kind beside each other."""
    return {kind: [(task["name"], task["charts"][kind]) for task in tasks if kind in task["charts"]] for kind in KINDS}


def _file_names(tasks: list[str]) -> list[str]:
    """A name for each task's files. A task can be an import path, and no two have the same name."""
    names: list[str] = []
    for task in tasks:
        name = re.sub(r"[^A-Za-z0-9_]+", "-", task)
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return names
