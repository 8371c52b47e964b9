"""report.html of a run: a self-contained page that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lambda_grpo.report.rendering import render
from lambda_grpo.report.run_charts import run_charts
from lambda_grpo.report.summary import summarise
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.record import RunRecord

SAMPLE_GROUPS = 2  # shown of the first and of the last generation


def write_report(run: Run) -> Path:
    """Write RUN/report.html from the files of the run directory, and return its path."""
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


def _data(config: RunRecord) -> str | None:
    """The name of the training data in the settings; None if it has none."""
    task, data = config["resolved"].get("task", {}), config["resolved"].get("data", {})
    mixture = " + ".join(part["path"] for part in data.get("datasets") or [])
    return task.get("task") or data.get("dataset_name") or mixture or config.get("data", {}).get("name")


def _samples(run: Run) -> list[dict[str, Any]]:
    """Whole groups of the first and the last generation, so that weights can be compared within a group."""
    table = run.completions()
    if table is None:
        return []
    by_step: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for sample in table.to_pylist():
        by_step.setdefault(sample["step"], {}).setdefault(sample["group"], []).append(sample)
    shown = []
    for step in dict.fromkeys((min(by_step), max(by_step))):
        groups = sorted(by_step[step].values(), key=_variety, reverse=True)
        shown += [sample for group in groups[:SAMPLE_GROUPS] for sample in group]
    return shown


def _variety(group: list[dict[str, Any]]) -> tuple[int, int]:
    """Sort key: the number of different rewards, then of different lengths."""
    return len({sample["reward"] for sample in group}), len({sample["length"] for sample in group})
