"""report.html: one self-contained page of a run, that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from lambda_grpo.report.charts import run_charts
from lambda_grpo.report.summary import Summary, summarise
from lambda_grpo.runs import Run

__all__ = ["Summary", "summarise", "write_report"]

SAMPLE_GROUPS = 2  # groups shown from the first and from the last generation


def write_report(run: Run) -> Path:
    """Write RUN/report.html from what the run directory holds, and return its path."""
    # autoescape: prompts and completions are whatever the model wrote
    environment = Environment(loader=PackageLoader("lambda_grpo.report", "."), autoescape=True, trim_blocks=True)
    page = environment.get_template("run.html.j2").render(
        summary=summarise(run), charts=run_charts(run), samples=_samples(run), config=run.config()
    )
    path = run.path / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _samples(run: Run) -> list[dict[str, Any]]:
    """Whole groups from the first and the last generation, so that a reader can compare weights within a group."""
    table = run.completions()
    if table is None:
        return []
    rows = table.to_pylist()
    shown = []
    for step in dict.fromkeys((rows[0]["step"], rows[-1]["step"])):
        of_step = [row for row in rows if row["step"] == step]
        groups = list(dict.fromkeys(row["group"] for row in of_step))[:SAMPLE_GROUPS]
        shown += [row for row in of_step if row["group"] in groups]
    return shown
