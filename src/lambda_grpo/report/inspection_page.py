"""The page of an inspection: what the logs of any run say about length, in the design of a run's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from lambda_grpo.files import write_text
from lambda_grpo.inspection import Inspection, shares_table
from lambda_grpo.report.figure import STYLE, Chart, Series, finish, gid, label_steps, new_axes, series_styles, trend
from lambda_grpo.report.listening import by_length
from lambda_grpo.report.rendering import render
from lambda_grpo.report.run_charts import legend_entries, weight_by_length
from lambda_grpo.report.run_samples import logged_samples
from lambda_grpo.report.run_viewer import run_viewer
from lambda_grpo.runs.provenance import provenance

LEARNED = ("lambda_grpo", "lambda_grpo_paper", "lambda_grpo_linear", "lambda_grpo_exp")
SHARED = ("grpo", "dapo", "dr_grpo", "lambda_grpo", "delta_l", "balanced")  # whose shares over the steps are drawn


def write_inspection_report(inspection: Inspection, paths: Sequence[str], page: Path) -> Path:
    """Write the page of an inspection of these paths, and return its path."""
    found, samples = inspection.found, logged_samples(inspection)
    weights, viewer = by_length(samples, None), run_viewer(samples, None)
    text = render(
        "inspection.html.j2",
        parts=("samples", "maths") if viewer.has_maths else ("samples",),
        verdict=found["verdict"],
        made_with=provenance(),
        inspection=inspection,
        found=found,
        table=shares_table(found),
        paths=paths,
        read=list(dict.fromkeys(found["columns"].values())),
        charts=_charts(found),
        by_length=weights and weight_by_length(weights),
        by_length_entries=legend_entries(weights.names if weights else []),
        viewer=viewer,
    )
    return write_text(page, text)


def _charts(found: Mapping[str, Any]) -> list[Chart]:
    """Over the steps: reward, length, groups without signal, λ as it would have been learned, and shares."""
    objectives = {name: one["by_step"] for name, one in found["objectives"].items() if one["by_step"]}
    steps = [first for first, _ in found["step_spans"]]
    if len(steps) < 2:
        return []
    means = found["by_step"]
    learned = {name: objectives[name]["lambda"] for name in LEARNED if name in objectives}
    right = "better than their group's mean" if found["graded"] else "that are right"
    shared = {name: objectives[name] for name in SHARED if name in objectives}
    longest = {
        name: _percent([quarters and quarters[3] for quarters in one["share_by_length_quartile"]])
        for name, one in shared.items()
    }
    rightly = {name: _percent(one["share_right"]) for name, one in shared.items()}
    charts = [
        ("Reward, mean", {"": means["reward_mean"]}, ""),
        ("Completion length, mean", {"": means["length_mean"]}, "tokens"),
        ("Groups without signal, %", {"": _percent(means["groups_without_signal"])}, "%"),
        ("λ as λ-GRPO would have learned it from these samples", learned, ""),
        ("Share of the gradient in the longest quarter, %", longest, "%"),
        (f"Share of the gradient in answers {right}, %", rightly, "%"),
    ]
    with matplotlib.rc_context(STYLE):
        drawn = [_lines(title, steps, curves, unit) for title, curves, unit in charts]
    return [chart for chart in drawn if chart is not None]


def _percent(shares: Sequence[float | None]) -> list[float | None]:
    return [None if share is None else 100 * share for share in shares]


def _lines(title: str, steps: Sequence[int], curves: Mapping[str, Sequence[float | None]], unit: str) -> Chart | None:
    """Curves over the steps, those that agree everywhere drawn once."""
    merged: dict[tuple[float | None, ...], list[str]] = {}
    for name, values in curves.items():
        key = tuple(None if value is None else float(f"{value:.4g}") for value in values)
        if any(value is not None for value in key):
            merged.setdefault(key, []).append(name)
    if not merged:
        return None
    axes = new_axes(unit)
    series = []
    by_name = {", ".join(names): values for values, names in merged.items()}
    for name, style in series_styles(list(by_name)).items():
        known = [(step, value) for step, value in zip(steps, by_name[name], strict=True) if value is not None]
        x, y = [step for step, _ in known], [value for _, value in known]
        axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=1.3, label=name, gid=gid(name))
        series.append(Series(name, name, x, y))
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=7, ncols=2)
    label_steps(axes)
    said = "; ".join(f"{one.name} {trend(one.y, unit)}".strip() for one in series)
    return finish(axes, title, f"{title}: {said}.", series, unit=unit)
