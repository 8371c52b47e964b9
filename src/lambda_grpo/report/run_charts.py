"""The curves of a run as inline SVG, and the style of all charts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lambda_grpo.runs.directory import Run, sampled_accuracy

COLOUR, HELD_OUT = "#1f5fa8", "#c2410c"
STYLE: Any = {  # Any: Matplotlib's type lists all keys
    "svg.fonttype": "none",  # text stays text: the files are small and searchable
    "svg.hashsalt": "lambda-grpo",  # equal numbers give equal files
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def run_charts(run: Run) -> list[tuple[str, Markup]]:
    """(title, SVG) of reward, accuracy, length, entropy and λ over steps, without empty ones."""
    metrics = run.metrics()
    samples = run.completions()
    accuracy = [] if samples is None else sampled_accuracy(samples)
    points = {name: evaluation for name in ("before", "after") if (evaluation := run.evaluation(name)) is not None}
    last_step = metrics[-1]["step"] if metrics else 0
    charts = [
        ("Reward (mean over samples)", _curve(metrics, "reward"), {}),
        ("Accuracy (line: samples trained on; dots: held-out, with 95 % interval)", accuracy, points),
        ("Completion length (tokens, mean)", _curve(metrics, "completion_length_mean"), {}),
        ("Entropy (nats per token, mean)", _curve(metrics, "entropy"), {}),
        ("λ", _curve(metrics, "lambda"), {}),
    ]
    return [
        (title, _draw(title, steps_and_values, evaluations, last_step))
        for title, steps_and_values, evaluations in charts
        if steps_and_values
    ]


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(record["step"], record[key]) for record in metrics if record.get(key) is not None]


def _draw(title: str, curve: list[tuple[int, float]], evaluations: dict[str, dict[str, Any]], last_step: int) -> Markup:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.4), layout="constrained")
        axes = figure.subplots()
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, values, color=COLOUR, linewidth=1.4, marker="." if len(steps) == 1 else None)
        for name, evaluation in evaluations.items():
            low, high = evaluation["ci95"]
            mean = evaluation["accuracy"]
            axes.errorbar(
                0 if name == "before" else last_step,
                mean,
                yerr=[[max(mean - low, 0)], [max(high - mean, 0)]],
                fmt="o",
                color=HELD_OUT,
                capsize=3,
                markersize=4,
            )
        label_steps(axes)
        return inline(svg(figure, title))


def label_steps(axes: Axes) -> None:
    """Label the x axis with steps."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def svg(figure: Figure, title: str) -> str:
    """A figure as an SVG file, in the current style."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    return file.getvalue()


def inline(svg_file: str) -> Markup:
    """An SVG file as markup for a page."""
    # safe: Matplotlib escapes the text in it
    return Markup(svg_file[svg_file.index("<svg") :])
