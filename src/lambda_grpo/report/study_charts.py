"""A study's figures, for its page and for a paper."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.stats import sem, t

from lambda_grpo.report.run_charts import STYLE
from lambda_grpo.report.study_figure import Chart, Look, chart, curves, legend, looks
from lambda_grpo.report.study_tables import QUANTITIES

KINDS = ("differences", "reward", "length", "entropy", "lambda", "shares")
PLACES = (0, 1, 2, 3, 4.6, 5.6)  # of the groups of bars: four quartiles, right and wrong


def task_charts(
    study: dict[str, Any],
    runs: list[dict[str, Any]],
    entries: list[dict[str, Any]],
    comparisons: list[dict[str, Any]],
) -> dict[str, Chart]:
    """The figures of one task by kind; those without data are left out."""
    known = looks(list(study["objectives"]))
    by_objective = {name: [run for run in runs if run["objective"] == name] for name in known}
    # names are the user's: a $ in one doesn't begin a formula
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):
        charts = (
            _differences(comparisons, known, study["endpoint"]),
            _over_steps(by_objective, known, "reward", "reward"),
            _over_steps(by_objective, known, "length", "completion length (tokens)"),
            _over_steps(by_objective, known, "entropy", "entropy (nats per token)"),
            _lambdas(by_objective, known),
            _shares({entry["objective"]: entry for entry in entries}, known),
        )
    return {kind: chart for kind, chart in zip(KINDS, charts, strict=True) if chart is not None}


def band(
    runs: list[dict[str, Any]], key: str
) -> tuple[list[int], NDArray[Any], tuple[NDArray[Any], NDArray[Any]] | None, int]:
    """Steps that every run with such values has, their mean, both ends of its 95 % t interval, and n.

    The interval ends where the values must. It is None with one run.
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


def _limits(runs: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """What a curve's values can be: as the runs tell, where they do."""
    figure = "completion_length_mean" if key == "length" else key
    told = [limit for run in runs if (limit := run.get("limits", {}).get(figure))]
    if told:
        return min(low for low, _ in told), max(high for _, high in told)
    return (0.0 if key in ("length", "entropy") else -np.inf), np.inf


def _points(run: dict[str, Any], key: str) -> dict[int, float]:
    curve = run["curve"]
    return {step: value for step, value in zip(curve["step"], curve[key], strict=True) if value is not None}


def _differences(comparisons: list[dict[str, Any]], known: dict[str, Look], endpoint: str) -> Chart | None:
    rows = [row for row in comparisons if row["difference"] is not None]
    if not rows:
        return None
    quantity, against = QUANTITIES[endpoint], rows[0]["against"]
    figure = Figure(figsize=(5.6, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        middle, colour = quantity.scale * row["difference"], known[row["objective"]].colour
        axes.plot(middle, place, "o", color=colour, markersize=5, markerfacecolor=colour if row["ci95"] else "white")
        if row["ci95"]:
            axes.plot([quantity.scale * end for end in row["ci95"]], [place, place], color=colour, linewidth=2)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["objective"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{quantity.label}: difference from {against} ({quantity.difference_unit})")
    interval = " with its 95 % interval" if any(row["ci95"] for row in rows) else ""
    return chart(figure, f"Difference from {against} in {quantity.label}{interval}; at zero: as {against}")


def _over_steps(runs: dict[str, list[dict[str, Any]]], known: dict[str, Look], key: str, label: str) -> Chart | None:
    """Mean over seeds with its band, all objectives in one chart."""
    figure, axes = curves(label)
    entries, banded = {}, False
    for name, look in known.items():
        steps, mean, ends, n = band(runs[name], key)
        if not steps:
            continue
        marker = "." if len(steps) == 1 else None
        (entries[name],) = axes.plot(
            steps, mean, color=look.colour, linestyle=look.line, marker=marker, label=f"{name} (n = {n})"
        )
        if ends is not None:
            axes.fill_between(steps, *ends, color=look.colour, alpha=0.15, linewidth=0)
            banded = True
    if not entries:
        return None
    legend(figure, list(entries.values()))
    what = "mean over seeds with a 95 % t band" if banded else "one run each"
    return chart(figure, f"{label[0].upper()}{label[1:]}: {what}{_not_drawn(known, entries)}")


def _lambdas(runs: dict[str, list[dict[str, Any]]], known: dict[str, Look]) -> Chart | None:
    figure, axes = curves("λ")
    entries = []
    for name, look in known.items():
        lines = [points for run in runs[name] if (points := _points(run, "lambda"))]
        for points in lines:
            marker = "." if len(points) == 1 else None
            steps, values = list(points), list(points.values())
            axes.plot(steps, values, color=look.colour, linestyle=look.line, linewidth=0.8, marker=marker)
        if lines:
            label = f"{name} (n = {len(lines)})"
            entries.append(Line2D([], [], color=look.colour, linestyle=look.line, label=label))
    if not entries:
        return None
    legend(figure, entries)
    return chart(figure, "λ, a line for each seed")


def _shares(entries: dict[str, dict[str, Any]], known: dict[str, Look]) -> Chart | None:
    """Where the weighted advantage mass lies: by quartile of length, and by right and wrong answers."""
    groups = {name: _by_length(entry) + _by_reward(entry) for name, entry in entries.items()}
    shown = [name for name in known if any(groups.get(name, []))]
    if not shown:
        return None
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shown)
    for nth, name in enumerate(shown):
        look = known[name]
        for place, share in zip(PLACES, groups[name], strict=True):
            if share is None:
                continue
            x = place + (nth - (len(shown) - 1) / 2) * width
            axes.bar(x, 100 * share["mean"], width, color=look.colour, hatch=look.hatch)
            if share["ci95"]:
                axes.plot([x, x], [100 * end for end in share["ci95"]], color="#444444", linewidth=1)
    axes.set_xticks(PLACES, ["shortest", "2nd", "3rd", "longest", "right", "wrong"])
    axes.set_xlabel("quartile of completion length; answer")
    axes.set_ylabel("share (%)")
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    legend(figure, [Patch(facecolor=known[name].colour, hatch=known[name].hatch, label=name) for name in shown])
    interval = ", 95 % intervals" if any(share and share["ci95"] for name in shown for share in groups[name]) else ""
    return chart(figure, f"Share of the weighted advantage mass: mean over seeds{interval}{_not_drawn(known, shown)}")


def _by_length(entry: dict[str, Any]) -> list[dict[str, Any] | None]:
    return entry["share_by_length_quartile"] or [None] * 4


def _by_reward(entry: dict[str, Any]) -> list[dict[str, Any] | None]:
    right = entry["share_right"]
    if right is None:
        return [None, None]
    ci95 = right["ci95"] and [1 - end for end in reversed(right["ci95"])]
    return [right, {"mean": 1 - right["mean"], "ci95": ci95}]


def _not_drawn(known: Iterable[str], drawn: Container[str]) -> str:
    missing = ", ".join(name for name in known if name not in drawn)
    return f". Without values to draw: {missing}" if missing else ""
