"""report.html of a run: a self-contained page that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lambda_grpo.formatting import in_words
from lambda_grpo.inspection import inspect_samples, shares_table
from lambda_grpo.options.objective import ObjectiveOptions
from lambda_grpo.report.listening import COMPARED, by_length
from lambda_grpo.report.rendering import render
from lambda_grpo.report.run_charts import legend_entries, run_charts, weight_by_length
from lambda_grpo.report.run_samples import read_run_samples
from lambda_grpo.report.run_viewer import run_viewer
from lambda_grpo.report.summary import summarise
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.record import RunRecord


def write_report(run: Run) -> Path:
    """Write RUN/report.html from the files of the run directory, and return its path."""
    return run.write_text("report.html", render_report(run))


def render_report(run: Run) -> str:
    """The page of a run, also while it is in progress."""
    summary, config = summarise(run), run.config()
    samples = read_run_samples(run)
    viewer = weights = found = None
    if samples is not None:
        found = inspect_samples(samples.numbers(), objectives=COMPARED)
        viewer = run_viewer(samples, summary.objective)
        weights = by_length(samples, summary.objective)
    return render(
        "run.html.j2",
        parts=() if viewer is None else ("samples", "maths") if viewer.has_maths else ("samples",),
        summary=summary,
        charts=run_charts(run, samples),
        found=found,
        table=found and shares_table(found),
        by_length=weights and weight_by_length(weights),
        by_length_entries=legend_entries(weights.names if weights else []),
        viewer=viewer,
        config=config,
        data=_data(config),
        about_data=_about_task(config),
        started=config.get("started", "")[:16].replace("T", " "),
        recipe=yaml.safe_dump(config["recipe"], sort_keys=False, allow_unicode=True) if config.get("recipe") else None,
        settings=list(_settings(config)),
        verdict=summary.verdict,
        made_with=config,
    )


def _data(config: RunRecord) -> str | None:
    """The name of the training data in the settings; None if it has none."""
    task, data = config["resolved"].get("task", {}), config["resolved"].get("data", {})
    mixture = " + ".join(part["path"] for part in data.get("datasets") or [])
    return task.get("task") or data.get("dataset_name") or mixture or config.get("data", {}).get("name")


def _about_task(config: RunRecord) -> str | None:
    """What a reader of the built-in task's samples needs to know."""
    if config["resolved"].get("task", {}).get("task") != "arithmetic":
        return None
    rate, usual = config["resolved"]["training"].get("lambda_lr"), ObjectiveOptions().lambda_lr
    learning = config["objective"]["learnable"] and rate not in (None, usual)
    return "Sums are modulo 10: 3+9 is 2." + (
        f" λ's learning rate is {rate:g} instead of {usual:g}, so that λ and f visibly move; "
        "docs/training.md says what that does to the accuracy."
        if learning
        else ""
    )


def _settings(config: RunRecord) -> Iterator[tuple[str, str]]:
    """Names and values of the objective's parts and of all settings, in words, without those that are none."""
    for name, value in config["objective"].items():
        yield f"objective: {name}", in_words(value)
    parts: Mapping[str, Any] = config["resolved"]
    for settings in parts.values():
        for name, value in sorted(settings.items()):
            if value is not None:
                yield name, in_words(value)
