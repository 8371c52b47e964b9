"""A study's figures, for its page and for a paper."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.stats import sem, t

from lambda_grpo.report.run_charts import STYLE
from lambda_grpo.report.study_figure import Chart, LineStyle, chart, curves, legend, line_styles
from lambda_grpo.report.study_tables import QUANTITIES
from lambda_grpo.runs.study_record import ComparisonRecord, MeanRecord, ObjectiveFigures, RunResult, StudySettings

KINDS = ("differences", "reward", "length", "entropy", "lambda", "shares")
POSITIONS = (0, 1, 2, 3, 4.6, 5.6)  # of the groups of bars: four quartiles, right and wrong


def task_charts(
    study: StudySettings,
    runs: list[RunResult],
    objectives: list[ObjectiveFigures],
    comparisons: list[ComparisonRecord],
) -> dict[str, Chart]:
    """The figures of one task by kind, without empty ones."""
    styles = line_styles(list(study["objectives"]))
    by_objective = {name: [run for run in runs if run["objective"] == name] for name in styles}
    # so that a $ in a name doesn't start a formula
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):
        charts = (
            _differences(comparisons, styles, study["endpoint"]),
            _over_steps(by_objective, styles, "reward", "reward"),
            _over_steps(by_objective, styles, "length", "completion length (tokens)"),
            _over_steps(by_objective, styles, "entropy", "entropy (nats per token)"),
            _lambdas(by_objective, styles),
            _shares({figures["objective"]: figures for figures in objectives}, styles),
        )
    return {kind: chart for kind, chart in zip(KINDS, charts, strict=True) if chart is not None}


def band(
    runs: list[RunResult], key: str
) -> tuple[list[int], NDArray[Any], tuple[NDArray[Any], NDArray[Any]] | None, int]:
    """The steps that all runs with such values have, their mean, its 95 % t interval, and n.

    The interval is cut to the possible values. It is None for a single run.
    """
    curves = [curve for run in runs if (curve := _points(run, key))]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    values = np.array([[curve[step] for step in steps] for curve in curves])  # (n, steps)
    n = len(curves)
    if not steps:
        return [], np.empty(0), None, n
    mean = values.mean(axis=0)
    if n < 2:
        return steps, mean, None, n
    half = t.ppf(0.975, n - 1) * sem(values, axis=0)
    low, high = _limits(runs, key)
    return steps, mean, (np.maximum(mean - half, low), np.minimum(mean + half, high)), n


def _limits(runs: list[RunResult], key: str) -> tuple[float, float]:
    """The range of a curve's values, from the runs if they have it."""
    figure = "completion_length_mean" if key == "length" else key
    of_runs = [limit for run in runs if (limit := run.get("limits", {}).get(figure))]
    if of_runs:
        return min(low for low, _ in of_runs), max(high for _, high in of_runs)
    return (0.0 if key in ("length", "entropy") else -np.inf), np.inf


def _points(run: RunResult, key: str) -> dict[int, float]:
    curve: Mapping[str, Any] = run["curve"]
    return {step: value for step, value in zip(curve["step"], curve[key], strict=True) if value is not None}


def _differences(comparisons: list[ComparisonRecord], styles: dict[str, LineStyle], endpoint: str) -> Chart | None:
    if not comparisons:
        return None
    quantity, against = QUANTITIES[endpoint], comparisons[0]["against"]
    figure = Figure(figsize=(5.6, 0.9 + 0.3 * len(comparisons)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(comparisons):
        middle, colour = quantity.scale * row["difference"], styles[row["objective"]].colour
        axes.plot(middle, y, "o", color=colour, markersize=5, markerfacecolor=colour if row["ci95"] else "white")
        if row["ci95"]:
            axes.plot([quantity.scale * end for end in row["ci95"]], [y, y], color=colour, linewidth=2)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(comparisons)), [row["objective"] for row in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{quantity.label}: difference from {against} ({quantity.difference_unit})")
    interval = " with its 95 % interval" if any(row["ci95"] for row in comparisons) else ""
    return chart(figure, f"Difference from {against} in {quantity.label}{interval}; zero: the same as {against}")


def _over_steps(runs: dict[str, list[RunResult]], styles: dict[str, LineStyle], key: str, label: str) -> Chart | None:
    """The mean over seeds with its band, all objectives in one chart."""
    figure, axes = curves(label)
    entries, banded = {}, False
    for name, style in styles.items():
        steps, mean, ends, n = band(runs[name], key)
        if not steps:
            continue
        marker = "." if len(steps) == 1 else None
        (entries[name],) = axes.plot(
            steps, mean, color=style.colour, linestyle=style.line, marker=marker, label=f"{name} (n = {n})"
        )
        if ends is not None:
            axes.fill_between(steps, *ends, color=style.colour, alpha=0.15, linewidth=0)
            banded = True
    if not entries:
        return None
    legend(figure, list(entries.values()))
    what = "mean over seeds with a 95 % t band" if banded else "one run each"
    return chart(figure, f"{label[0].upper()}{label[1:]}: {what}{_not_drawn(styles, entries)}")


def _lambdas(runs: dict[str, list[RunResult]], styles: dict[str, LineStyle]) -> Chart | None:
    figure, axes = curves("λ")
    entries = []
    for name, style in styles.items():
        lines = [points for run in runs[name] if (points := _points(run, "lambda"))]
        for points in lines:
            marker = "." if len(points) == 1 else None
            steps, values = list(points), list(points.values())
            axes.plot(steps, values, color=style.colour, linestyle=style.line, linewidth=0.8, marker=marker)
        if lines:
            label = f"{name} (n = {len(lines)})"
            entries.append(Line2D([], [], color=style.colour, linestyle=style.line, label=label))
    if not entries:
        return None
    legend(figure, entries)
    return chart(figure, "λ, one line per seed")


def _shares(objectives: dict[str, ObjectiveFigures], styles: dict[str, LineStyle]) -> Chart | None:
    """Shares of the weighted advantage mass, by quartile of length, and by right and wrong answers."""
    groups = {
        name: [*figures["share_by_length_quartile"], *_by_reward(figures)] for name, figures in objectives.items()
    }
    shown = [name for name in styles if any(groups.get(name, []))]
    if not shown:
        return None
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for index, name in enumerate(shown):
        style = styles[name]
        for position, share in zip(POSITIONS, groups[name], strict=True):
            if share is None:
                continue
            x = position + (index - (len(shown) - 1) / 2) * width
            axes.bar(x, 100 * share["mean"], width, color=style.colour, hatch=style.hatch)
            if share["ci95"]:
                axes.plot([x, x], [100 * end for end in share["ci95"]], color="#444444", linewidth=1)
    axes.set_xticks(POSITIONS, ["shortest", "2nd", "3rd", "longest", "right", "wrong"])
    axes.set_xlabel("quartile of completion length; answer")
    axes.set_ylabel("share (%)")
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    legend(figure, [Patch(facecolor=styles[name].colour, hatch=styles[name].hatch, label=name) for name in shown])
    interval = ", 95 % intervals" if any(share and share["ci95"] for name in shown for share in groups[name]) else ""
    return chart(figure, f"Share of the weighted advantage mass: mean over seeds{interval}{_not_drawn(styles, shown)}")


def _by_reward(figures: ObjectiveFigures) -> list[MeanRecord | None]:
    right = figures["share_right"]
    if right is None:
        return [None, None]
    ci95 = right["ci95"] and [1 - end for end in reversed(right["ci95"])]
    return [right, {"mean": 1 - right["mean"], "ci95": ci95, "n": right["n"]}]


def _not_drawn(names: Iterable[str], drawn: Container[str]) -> str:
    missing = ", ".join(name for name in names if name not in drawn)
    return f". Not drawn, without values: {missing}" if missing else ""
