"""report.html of a study: a self-contained page that opens offline, and its figures and tables as files for a paper."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lambda_grpo.files import write_bytes, write_text
from lambda_grpo.report.figure import FORMATS, Chart
from lambda_grpo.report.latex import latex_table
from lambda_grpo.report.quantities import is_graded, quantities
from lambda_grpo.report.rendering import render
from lambda_grpo.report.study_charts import KINDS, task_charts
from lambda_grpo.report.study_figure import arms
from lambda_grpo.report.study_tables import (
    AT_THESE_RATES,
    comparison_table,
    failure_table,
    objective_table,
    rate_table,
    sweep_table,
)
from lambda_grpo.runs.study_record import Budget, StudyRecord, StudySettings

LATEX_KINDS = ("differences", "objectives")


def write_study_report(results: StudyRecord, directory: Path) -> Path:
    """Write report.html, figures/ and tables/ into DIRECTORY from the record of a study, and return the page's path."""
    tasks = _tasks(results)
    figures, tables = directory / "figures", directory / "tables"
    figures.mkdir(parents=True, exist_ok=True)
    written = set()
    for task, name in zip(tasks, _file_names(results["study"]["tasks"]), strict=True):
        for kind, chart in task["charts"].items():
            for suffix, content in chart.files().items():
                written.add(write_bytes(figures / f"{name}-{kind}.{suffix}", content))
        for kind, latex in _latex(task, name, results["study"]).items():
            written.add(write_text(tables / f"{name}-{kind}.tex", latex))
    patterns = [(figures, f"*-{kind}.{suffix}") for kind in KINDS for suffix in FORMATS]
    patterns += [(tables, f"*-{kind}.tex") for kind in LATEX_KINDS]
    for folder, pattern in patterns:  # of tasks that the study had earlier
        for path in set(folder.glob(pattern)) - written:
            path.unlink()
    return write_text(directory / "report.html", _render(results, tasks))


def render_study_report(results: StudyRecord) -> str:
    """The page of a study, from its record."""
    return _render(results, _tasks(results))


def _render(results: StudyRecord, tasks: list[dict[str, Any]]) -> str:
    study, named = results["study"], quantities(graded=False)
    return render(
        "study.html.j2",
        verdict=results["verdict"],
        made_with=results,
        study=study,
        endpoint=named[study["endpoint"]].label,
        budget=_budget(study["budget"]),
        rates=", ".join(f"{rate:g}" for rate in study["learning_rates"]),
        choice=named[results["sweep"][0]["figure"]].label if results["sweep"] else "",
        chooses_rates=len(study["learning_rates"]) > 1,
        readings=results["readings"],
        machines=sorted({run["machine"] for run in results["runs"]}),
        runs=len(results["runs"]),
        intervals=_has_intervals(study),
        tasks=tasks,
        charts=_by_kind(tasks),
        legend=[(arm.key, name, arm.style.variable) for name, arm in arms(list(study["objectives"])).items()],
        failures=failure_table(results["failures"]) if results["failures"] else None,
    )


def _tasks(results: StudyRecord) -> list[dict[str, Any]]:
    """The part of the page on each task."""
    return [_task(results, task) for task in results["study"]["tasks"]]


def _task(results: StudyRecord, task: str) -> dict[str, Any]:
    """The part of the page on one task."""
    study = results["study"]
    runs = [run for run in results["runs"] if run["task"] == task and run["chosen"]]
    objectives = [figures for figures in results["objectives"] if figures["task"] == task]
    comparisons = [comparison for comparison in results["comparisons"] if comparison["task"] == task]
    sweep = [record for record in results["sweep"] if record["task"] == task]
    graded = is_graded(runs)
    named = quantities(graded=graded)
    endpoint = named[study["endpoint"]]
    return {
        "name": task,
        "graded": graded,
        "endpoint": endpoint,
        "comparisons": comparison_table(comparisons, study, endpoint) if comparisons else None,
        "objectives": objective_table(objectives, runs, study, named) if runs else None,
        "sweep": sweep_table(sweep, study, named) if sweep else None,
        "by_rate": rate_table(comparisons, endpoint) if len(study["learning_rates"]) > 1 and comparisons else None,
        "charts": task_charts(study, runs, objectives, comparisons, sweep, endpoint),
    }


def _latex(task: dict[str, Any], label: str, study: StudySettings) -> dict[str, str]:
    """The tables of one task as LaTeX, by kind, narrow enough for a page of a paper."""
    tables, differences, objectives = {}, task["comparisons"], task["objectives"]
    if differences:
        mean = f"Differences from {study['against']} in {task['endpoint'].label} on {task['name']}: mean over seeds"
        tested = ", with the 95 % interval and p of the paired t test" if _has_intervals(study) else ""
        shown = differences.without(AT_THESE_RATES, "verdict")
        tables["differences"] = latex_table(shown, f"{mean}{tested}.", f"{label}-differences")
    if objectives:
        below = ", with its 95 % interval below" if _has_intervals(study) else ""
        caption = f"Each objective on {task['name']} at the end of training: mean over seeds{below}."
        tables["objectives"] = latex_table(objectives.transposed(), caption, f"{label}-objectives")
    return tables


def _has_intervals(study: StudySettings) -> bool:
    return len(study["seeds"]) > 1


def _budget(budget: Budget) -> str:
    steps = f"{budget['max_steps']:,} steps" if budget["max_steps"] else None
    tokens = f"{budget['max_generated_tokens']:,} generated tokens" if budget["max_generated_tokens"] else None
    return f"{tokens}, at most {steps}" if steps and tokens else tokens or steps or "the recipe's epochs"


def _by_kind(tasks: list[dict[str, Any]]) -> dict[str, list[Chart]]:
    """The charts by kind, one per task; if there are several tasks, their titles name them."""
    return {
        kind: [
            replace(chart, title=f"{task['name']}: {chart.title}") if len(tasks) > 1 else chart
            for task in tasks
            if (chart := task["charts"].get(kind)) is not None
        ]
        for kind in KINDS
    }


def _file_names(tasks: list[str]) -> list[str]:
    """A distinct file name for each task, which may be an import path."""
    names: list[str] = []
    for task in tasks:
        name = re.sub(r"[^A-Za-z0-9_]+", "-", task)
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return names
