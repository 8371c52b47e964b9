"""A study's figures, for its page and for a paper."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.stats import sem, t

from lambda_grpo.report.figure import INK, MUTED, STYLE, Chart, Series, finish, label_steps, marker, trend
from lambda_grpo.report.quantities import Quantity, is_graded, quantities
from lambda_grpo.report.study_figure import Arm, arms, study_axes
from lambda_grpo.runs.limits import limits_of
from lambda_grpo.runs.study_record import (
    ComparisonRecord,
    MeanRecord,
    ObjectiveFigures,
    RunResult,
    StudySettings,
    SweepRecord,
)

KINDS = ("differences", "rates", "held_out", "accuracy", "reward", "length", "entropy", "lambda", "shares")
ROUNDING = 1e-5  # TRL logs rewards in single precision
POSITIONS = (0, 1, 2, 3, 4.6, 5.6)  # of the groups of bars: four quartiles, right and other answers
QUARTILES = ("shortest", "2nd", "3rd", "longest")
BAND = "mean over seeds with its 95 % band"
LIMITED = {"length": "completion_length_mean", "held_out": "accuracy"}  # curves by the figure whose limits they have
LABEL_GAP = 0.09  # between two labels at the right of a chart, as a share of its height

Runs = Mapping[str, list[RunResult]]  # by objective


def task_charts(
    study: StudySettings,
    runs: list[RunResult],
    objectives: list[ObjectiveFigures],
    comparisons: list[ComparisonRecord],
    sweep: list[SweepRecord],
    endpoint: Quantity,
) -> dict[str, Chart]:
    """The figures of one task by kind, without empty ones."""
    drawn = arms(list(study["objectives"]))
    graded = is_graded(runs)
    own = {name: [run for run in runs if run["objective"] == name] for name in drawn}
    figures = {row["objective"]: row for row in objectives}
    with matplotlib.rc_context(STYLE):
        charts = (
            _differences(comparisons, drawn, endpoint),
            _rates(sweep, drawn),
            _held_out(own, drawn, graded=graded),
            _accuracy(own, drawn, graded=graded),
            _reward(own, drawn),
            _over_steps(own, drawn, "length", "completion length (tokens)", "tokens"),
            _over_steps(own, drawn, "entropy", "entropy (nats per token)", "nats"),
            _lambdas(own, drawn),
            _shares(figures, drawn, graded=graded),
        )
    return {kind: chart for kind, chart in zip(KINDS, charts, strict=True) if chart is not None}


@dataclass(frozen=True)
class Band:
    """The mean over n runs at each step that all of them have, and its 95 % t interval, which a single run lacks."""

    steps: list[int]
    mean: list[float]
    low: list[float] | None
    high: list[float] | None
    n: int


def band(runs: list[RunResult], key: str, scale: float = 1) -> Band | None:
    """The mean curve of those runs that have values, with intervals cut to the possible ones; None if there is none."""
    curves = [curve for run in runs if (curve := _points(run, key))]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if not steps:
        return None
    values = np.array([[curve[step] for step in steps] for curve in curves])  # (n, steps)
    mean, n = values.mean(axis=0), len(curves)
    if n < 2:
        return Band(steps, (scale * mean).tolist(), None, None, n)
    half = t.ppf(0.975, n - 1) * sem(values, axis=0)
    least, greatest = limits_of(LIMITED.get(key, key), runs)
    low, high = np.maximum(mean - half, least), np.minimum(mean + half, greatest)
    return Band(steps, (scale * mean).tolist(), (scale * low).tolist(), (scale * high).tolist(), n)


def _points(run: RunResult, key: str) -> dict[int, float]:
    """The values of a curve by step; `held_out` is the accuracy of the evaluations."""
    curve: Mapping[str, Any] = run["held_out"] if key == "held_out" else run["curve"]
    values = curve["accuracy" if key == "held_out" else key]
    return {step: value for step, value in zip(curve["step"], values, strict=True) if value is not None}


def _differences(comparisons: list[ComparisonRecord], drawn: Mapping[str, Arm], quantity: Quantity) -> Chart | None:
    """A forest plot: a row for each objective, with its numbers."""
    if not comparisons:
        return None
    against = comparisons[0]["against"]
    axes = study_axes(height=0.75 + 0.26 * len(comparisons))
    for y, row in enumerate(comparisons):
        arm, middle, ends = drawn[row["objective"]], quantity.scale * row["difference"], row["ci95"]
        colour = arm.style.colour
        if ends:
            axes.plot([quantity.scale * end for end in ends], [y, y], color=colour, linewidth=2, gid=arm.gid)
        face = colour if ends else "none"
        axes.plot(middle, y, "o", color=colour, markersize=6, markerfacecolor=face, gid=arm.gid)
        numbers = quantity.difference(row["difference"]) + (f"  ({quantity.difference_interval(ends)})" if ends else "")
        for x, text, side in ((-0.015, row["objective"], "right"), (1.02, numbers, "left")):
            axes.annotate(
                text, (x, y), xycoords=("axes fraction", "data"), ha=side, va="center", color=INK, gid=arm.gid
            )  # fmt: skip
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks([])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{quantity.label}: difference from {against} ({quantity.difference_unit})")
    interval = " with its 95 % interval" if any(row["ci95"] for row in comparisons) else ""
    title = f"Difference from {against} in {quantity.label}{interval}; 0: the same as {against}"
    return finish(axes, title, " ".join(row["sentence"] for row in comparisons))


def _rates(sweep: list[SweepRecord], drawn: Mapping[str, Arm]) -> Chart | None:
    """What learning rates were chosen by, over the learning rates; the chosen ones are filled."""
    if len({row["learning_rate"] for row in sweep}) < 2:
        return None
    quantity = quantities(graded=False)[sweep[0]["figure"]]
    axes = study_axes(quantity.titled)
    handles, seen = [], {}
    for name, arm in drawn.items():
        own = sorted((row for row in sweep if row["objective"] == name), key=lambda row: row["learning_rate"])
        if not own:
            continue
        rates, values = [row["learning_rate"] for row in own], [quantity.scale * row["value"] for row in own]
        style: Any = {"color": arm.style.colour, "linestyle": arm.style.line, "gid": arm.gid}
        handles += axes.plot(rates, values, linewidth=1.4, label=name, **style)
        for rate, value, row in zip(rates, values, own, strict=True):
            face = arm.style.colour if row["chosen"] else "none"
            axes.plot(rate, value, "o", color=arm.style.colour, markerfacecolor=face, markersize=5, gid=arm.gid)
        seen[name] = ", ".join(f"{rate:g} {value:.1f}" for rate, value in zip(rates, values, strict=True))
    axes.set_xscale("log")
    ticks = sorted({row["learning_rate"] for row in sweep})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("learning rate")
    label = quantity.label[0].upper() + quantity.label[1:]
    title = f"{label} over learning rates: mean over seeds; the filled points are compared"
    return finish(axes, title, _described(title, seen), legend=handles)


def _held_out(runs: Runs, drawn: Mapping[str, Arm], *, graded: bool) -> Chart | None:
    """The held-out accuracy, where there were evaluations during training."""
    if not any(len(run["held_out"]["step"]) > 2 for own in runs.values() for run in own):
        return None
    label = "held-out answers with full marks (%)" if graded else "held-out accuracy (%)"
    return _over_steps(runs, drawn, "held_out", label, "%")


def _accuracy(runs: Runs, drawn: Mapping[str, Arm], *, graded: bool) -> Chart | None:
    """The share of samples with a grade of 1. Where it is the reward as well, the title says so."""
    if graded:
        return _over_steps(runs, drawn, "accuracy", "samples with full marks (%)", "%")
    note = ", which is the mean reward, 1 for right answers and 0 for others" if _reward_is_accuracy(runs) else ""
    return _over_steps(runs, drawn, "accuracy", "accuracy of the samples (%)", "%", note)


def _reward(runs: Runs, drawn: Mapping[str, Arm]) -> Chart | None:
    """The reward, unless it is the accuracy, which has a chart of its own."""
    return None if _reward_is_accuracy(runs) else _over_steps(runs, drawn, "reward", "reward of the samples")


def _reward_is_accuracy(runs: Runs) -> bool:
    """Whether the mean reward of the samples is their accuracy."""
    for run in (run for own in runs.values() for run in own):
        accuracy, reward = _points(run, "accuracy"), _points(run, "reward")
        if not accuracy or any(abs(reward.get(step, share) - share) > ROUNDING for step, share in accuracy.items()):
            return False
    return True


def _over_steps(
    runs: Runs, drawn: Mapping[str, Arm], key: str, label: str, unit: str = "", note: str = ""
) -> Chart | None:
    """The mean over seeds with its band, all objectives in one chart. With unit "%" values are shares."""
    axes = study_axes(label)
    handles, series, seen, banded = [], [], {}, False
    for name, arm in drawn.items():
        found = band(runs[name], key, scale=100 if unit == "%" else 1)
        if found is None:
            continue
        style: Any = {"color": arm.style.colour, "linestyle": arm.style.line, "marker": marker(found.steps)}
        own = f"{name} (n = {found.n})"
        handles += axes.plot(found.steps, found.mean, linewidth=1.4, label=own, gid=arm.gid, **style)
        series.append(Series(name, arm.key, found.steps, found.mean, found.low, found.high))
        seen[name] = trend(found.mean, unit)
        if found.low is not None and found.high is not None:
            colour, ends = arm.style.colour, (found.low, found.high)
            axes.fill_between(found.steps, *ends, color=colour, alpha=0.15, linewidth=0, gid=arm.band_gid)
            banded = True
    if not seen:
        return None
    label_steps(axes)
    title = label[0].upper() + label[1:]
    return finish(
        axes,
        f"{title}{note}: {BAND if banded else 'one run each'}{_not_drawn(drawn, seen)}",
        _described(title, seen),
        series=series,
        unit=unit,
        legend=handles,
    )


def _lambdas(runs: Runs, drawn: Mapping[str, Arm]) -> Chart | None:
    """λ of each seed as a thin line, and the mean over seeds as a thick one, with its last value."""
    axes = study_axes("λ")
    handles, series, seen, last = [], [], {}, {}
    for name, arm in drawn.items():
        found = band(runs[name], "lambda")
        if found is None:
            continue
        style: Any = {"color": arm.style.colour, "linestyle": arm.style.line, "gid": arm.gid}
        for points in (_points(run, "lambda") for run in runs[name]):
            axes.plot(list(points), list(points.values()), linewidth=0.6, alpha=0.45, marker=marker(points), **style)
        axes.plot(found.steps, found.mean, linewidth=2.2, marker=marker(found.steps), **style)
        handles.append(Line2D([], [], linewidth=2.2, label=f"{name} (n = {found.n})", **style))
        series.append(Series(name, arm.key, found.steps, found.mean, found.low, found.high))
        seen[name], last[name] = trend(found.mean), found.mean[-1]
    if not seen:
        return None
    axes.axhline(0, color=MUTED, linewidth=0.6)
    low, high = axes.get_ylim()
    for name, place in zip(last, _apart(list(last.values()), low, high), strict=True):
        axes.annotate(
            f"{name} {last[name]:+.3f}".replace("-", "−"), (1.01, place), xycoords=("axes fraction", "data"),
            va="center", color=drawn[name].style.colour, gid=drawn[name].gid,
        )  # fmt: skip
    axes.set_ylim(low, high)
    label_steps(axes)
    several = any(one.low is not None for one in series)
    title = "λ: a thin line for each seed, a thick one for their mean" if several else "λ: one run each"
    return finish(axes, title, _described("Mean λ", seen), series=series, legend=handles)


def _apart(places: Sequence[float], low: float, high: float) -> list[float]:
    """Places for labels between low and high that don't overlap, as near to the given ones as that allows."""
    gap = min(LABEL_GAP, 1 / max(len(places), 1)) * (high - low)
    order = sorted(range(len(places)), key=lambda i: places[i])
    placed = list(places)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    highest = high - gap / 2
    for i in reversed(order):
        placed[i] = min(placed[i], highest)
        highest = placed[i] - gap
    return placed


def _shares(figures: Mapping[str, ObjectiveFigures], drawn: Mapping[str, Arm], *, graded: bool) -> Chart | None:
    """Shares of the weighted advantage mass, by quartile of length, and by right and other answers."""
    groups = {name: [*own["share_by_length_quartile"], *_by_reward(own)] for name, own in figures.items()}
    shown = [name for name in drawn if any(groups.get(name, []))]
    if not shown:
        return None
    axes = study_axes("share (%)")
    width = 0.8 / len(shown)
    handles, seen = [], {}
    labels = (*QUARTILES, *(("full marks", "less") if graded else ("right", "wrong")))
    for index, name in enumerate(shown):
        arm = drawn[name]
        # white is the colour of the hatches
        style: Any = {"facecolor": arm.style.colour, "hatch": arm.style.hatch, "edgecolor": "white", "linewidth": 0}
        for position, share in zip(POSITIONS, groups[name], strict=True):
            if share is None:
                continue
            x = position + (index - (len(shown) - 1) / 2) * width
            axes.bar(x, 100 * share["mean"], width, gid=arm.gid, **style)
            if share["ci95"]:
                axes.plot([x, x], [100 * end for end in share["ci95"]], color=INK, linewidth=1, gid=arm.gid)
        handles.append(Patch(label=name, gid=arm.gid, **style))
        shares = zip(labels, groups[name], strict=True)
        seen[name] = ", ".join(f"{label} {100 * share['mean']:.1f}\u00a0%" for label, share in shares if share)
    axes.set_xticks(POSITIONS, labels)
    axes.set_xlabel("quartile of completion length; answer")
    axes.grid(axis="x", visible=False)
    interval = ", 95 % intervals" if any(share and share["ci95"] for name in shown for share in groups[name]) else ""
    title = "Share of the weighted advantage mass, %"
    return finish(
        axes,
        f"{title}: mean over seeds{interval}{_not_drawn(drawn, shown)}",
        _described(title, seen),
        legend=handles,
    )


def _by_reward(figures: ObjectiveFigures) -> list[MeanRecord | None]:
    right = figures["share_right"]
    if right is None:
        return [None, None]
    ci95 = right["ci95"] and [1 - end for end in reversed(right["ci95"])]
    return [right, {"mean": 1 - right["mean"], "ci95": ci95, "n": right["n"]}]


def _described(title: str, seen: Mapping[str, str]) -> str:
    return f"{title}. {'; '.join(f'{name}: {words}' for name, words in seen.items())}."


def _not_drawn(names: Iterable[str], drawn: Container[str]) -> str:
    missing = ", ".join(name for name in names if name not in drawn)
    return f". Not drawn, without values: {missing}" if missing else ""
