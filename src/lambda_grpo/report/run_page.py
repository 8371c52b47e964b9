"""report.html of a run: one self-contained page that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lambda_grpo.report.rendering import render
from lambda_grpo.report.run_charts import run_charts
from lambda_grpo.report.summary import summarise
from lambda_grpo.runs.directory import Run

SAMPLE_GROUPS = 2  # groups shown from the first and from the last generation


def write_report(run: Run) -> Path:
    """Write RUN/report.html from what the run directory holds, and return its path."""
    summary, config = summarise(run), run.config()
    page = render(
        "run.html.j2",
        summary=summary,
        charts=run_charts(run),
        samples=_samples(run),
        config=config,
        data=_data(config),
        verdict=summary.verdict,
        made_with=config,
    )
    return run.write_text("report.html", page)


def _data(config: dict[str, Any]) -> str | None:
    """What the run was trained on, as its settings call it; None if nothing has a name."""
    task, data = config["resolved"].get("task", {}), config["resolved"].get("data", {})
    mixture = " + ".join(part["path"] for part in data.get("datasets") or [])
    return task.get("task") or data.get("dataset_name") or mixture or config.get("data", {}).get("name")


def _samples(run: Run) -> list[dict[str, Any]]:
    """Whole groups from the first and the last generation, so that a reader can compare weights within a group."""
    table = run.completions()
    if table is None:
        return []
    by_step: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for row in table.to_pylist():
        by_step.setdefault(row["step"], {}).setdefault(row["group"], []).append(row)
    shown = []
    for step in dict.fromkeys((min(by_step), max(by_step))):
        groups = sorted(by_step[step].values(), key=_variety, reverse=True)
        shown += [row for group in groups[:SAMPLE_GROUPS] for row in group]
    return shown


def _variety(group: list[dict[str, Any]]) -> tuple[int, int]:
    """How much a group has to show: several rewards before several lengths."""
    return len({row["reward"] for row in group}), len({row["length"] for row in group})
