"""The charts of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from lambda_grpo.inspection.spans import Spans
from lambda_grpo.report.figure import (
    MUTED,
    PALETTE,
    STYLE,
    Chart,
    Series,
    finish,
    gid,
    label_steps,
    marker,
    new_axes,
    series_styles,
    trend,
)
from lambda_grpo.report.listening import ByLength, quarter_names
from lambda_grpo.report.run_samples import RunSamples
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.record import HeldOutRecord

BLUE, ORANGE, GREEN = PALETTE[:3]
SPANS = 60  # of steps, whose samples are taken together in a chart of shares

# Metrics that are charted where a run logged them and they aren't always 0: title, unit
OTHER_METRICS = {
    "grad_norm": ("Gradient norm", ""),
    "clip_ratio/region_mean": ("Clipped ratios, % of tokens", "%"),
    "kl": ("KL divergence from the reference, nats per token", "nats"),
    "informative_groups": ("Groups with differing rewards, %", "%"),
    "completions/clipped_ratio": ("Completions cut at the limit, %", "%"),
}


def run_charts(run: Run, samples: RunSamples | None) -> dict[str, list[Chart]]:
    """The charts of a run by section: "learning" and "preference", without empty ones."""
    metrics = run.metrics()
    held_out = run.evaluations()
    with matplotlib.rc_context(STYLE):
        learning = [
            *_rewards(metrics, samples, held_out),
            _length(metrics, samples),
            _metric(metrics, "entropy", "Entropy, nats per token", "nats"),
            *(_metric(metrics, key, *label, skip_zero=True) for key, label in OTHER_METRICS.items()),
        ]
        preference = [
            _metric(metrics, "lambda", "λ", "", zero=True),
            _metric(metrics, "lambda_grad", "∂L/∂λ, the gradient of λ", "", zero=True),
            _weight_range(metrics),
            *_shares(samples),
        ]
    return {
        "learning": [chart for chart in learning if chart is not None],
        "preference": [chart for chart in preference if chart is not None],
    }


def legend_entries(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(key, name, CSS variable of the colour) of the series of `weight_by_length`."""
    return [(name, name, style.variable) for name, style in series_styles(names).items()]


def weight_by_length(found: ByLength) -> Chart:
    """f over length: the run's own, and that of each other objective on the same groups."""
    with matplotlib.rc_context(STYLE):
        axes = new_axes("f", width=7.2, height=2.8)
        axes.axhline(1, color=MUTED, linewidth=0.6)
        own = found.names[0]
        axes.scatter(found.lengths, found.weights, s=7, color=BLUE, alpha=0.25, linewidths=0, gid=gid(own))
        series = []
        for name, style in series_styles(found.names).items():
            curve, width = found.curves[name], 2.2 if name == own else 1.2
            axes.plot(
                found.centres, curve, color=style.colour, linestyle=style.line, linewidth=width, gid=gid(name)
            )  # fmt: skip
            series.append(Series(name, name, found.centres, curve))
        axes.set_xlabel("completion length / mean length of its group")
        axes.set_ylim(0, max(2.0, *(1.1 * max(curve) for curve in found.curves.values())))
        ends = "; ".join(
            f"{name}: {curve[0]:.2f} for the shortest, {curve[-1]:.2f} for the longest"
            for name, curve in found.curves.items()
        )
        return finish(axes, "f over length", f"Mean f by length. {ends}.", series, x="relative length")


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[key]) for record in metrics if record.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _metric(
    metrics: Sequence[Mapping[str, Any]],
    key: str,
    title: str,
    unit: str,
    *,
    zero: bool = False,
    skip_zero: bool = False,
) -> Chart | None:
    """A logged metric over the steps. zero: whether 0 is marked. skip_zero: no chart if it is always 0."""
    steps, values = _curve(metrics, key)
    if not steps or (skip_zero and not any(values)):
        return None
    if unit == "%":
        values = [100 * value for value in values]
    axes = new_axes(unit)
    if zero:
        axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.plot(steps, values, color=BLUE, linewidth=1.4, marker=marker(steps), gid=gid("run"))
    label_steps(axes)
    return finish(axes, title, f"{title}: {trend(values, unit)}.", [Series("", "run", steps, values)], unit=unit)


def _rewards(
    metrics: Sequence[Mapping[str, Any]], samples: RunSamples | None, held_out: Sequence[HeldOutRecord]
) -> Iterator[Chart | None]:
    """Accuracy, unless answers are graded, and reward, where it isn't the accuracy.

    Held-out accuracy is drawn with the other, or on its own where it was measured during training.
    """
    is_graded = samples is not None and samples.is_graded
    if not is_graded and (samples is None or not samples.has_penalties):
        yield _accuracy(*_curve(metrics, "reward"), held_out, "Accuracy = mean reward, %")
        return
    yield _metric(metrics, "reward", "Reward, mean over samples", "")
    if is_graded:
        yield _held_out_accuracy(held_out)
    elif samples is not None:
        scored = samples.by_step((~np.isnan(samples.grade)).astype(float))
        right = samples.by_step(np.nan_to_num(samples.grade))
        accuracy = (right[scored > 0] / scored[scored > 0]).tolist()
        yield _accuracy(samples.steps[scored > 0].tolist(), accuracy, held_out, "Accuracy, %")


def _accuracy(
    steps: Sequence[int], values: Sequence[float], held_out: Sequence[HeldOutRecord], title: str
) -> Chart | None:
    """Accuracy over the steps, with that of the held-out problems."""
    if not steps:
        return None
    values = [100 * value for value in values]
    axes = new_axes("%")
    axes.plot(steps, values, color=BLUE, linewidth=1.4, marker=marker(steps), gid=gid("run"))
    series = [Series("training samples", "run", steps, values)]
    found = "no held-out evaluation"
    if held_out:
        series.append(_draw_held_out(axes, held_out))
        found = f"held-out {trend(series[-1].y, '%')}"
    label_steps(axes)
    title += ": training samples, and held-out with 95 % interval" if held_out else ""
    return finish(axes, title, f"{title}: training samples {trend(values, '%')}; {found}.", series, unit="%")


def _held_out_accuracy(held_out: Sequence[HeldOutRecord]) -> Chart | None:
    """The held-out accuracy alone, if there is more of it than before and after, which the page has in numbers."""
    if len(held_out) < 3:
        return None
    axes = new_axes("%")
    series = _draw_held_out(axes, held_out)
    label_steps(axes)
    title = "Held-out accuracy with 95 % interval, %"
    return finish(axes, title, f"{title}: {trend(series.y, '%')}.", [series], unit="%")


def _draw_held_out(axes: Axes, held_out: Sequence[HeldOutRecord]) -> Series:
    """Draw the held-out accuracy with its intervals; as a curve if it was measured during training."""
    steps = [record["step"] for record in held_out]
    accuracy = [100 * record["accuracy"] for record in held_out]
    low, high = ([100 * record["ci95"][end] for record in held_out] for end in (0, 1))
    for step, below, above in zip(steps, low, high, strict=True):
        axes.plot([step, step], [below, above], color=ORANGE, linewidth=1.4, gid=gid("held-out"))
    line = "solid" if len(steps) > 2 else "none"
    axes.plot(
        steps, accuracy, color=ORANGE, marker="o", markersize=4, linewidth=1, linestyle=line, gid=gid("held-out")
    )  # fmt: skip
    return Series("held-out", "held-out", steps, accuracy, low, high)


def _length(metrics: Sequence[Mapping[str, Any]], samples: RunSamples | None) -> Chart | None:
    """The mean length; also of right and of wrong answers."""
    steps, values = _curve(metrics, "completion_length_mean")
    if not steps:
        return None
    axes = new_axes("tokens")
    axes.plot(steps, values, color=BLUE, linewidth=1.6, marker=marker(steps), gid=gid("run"))
    series = [Series("all", "run", steps, values)]
    title = "Completion length, mean"
    if samples is not None and not samples.is_graded:
        title += ": all, right and wrong answers"
        for name, grade, colour in (("right", 1, GREEN), ("wrong", 0, ORANGE)):
            matching = (samples.grade == grade).astype(float)
            counts = samples.by_step(matching)
            means = samples.by_step(matching * samples.length)[counts > 0] / counts[counts > 0]
            at = samples.steps[counts > 0].tolist()
            if at:
                axes.plot(at, means, color=colour, linewidth=0.9, marker=marker(at), gid=gid(name))
                series.append(Series(name, name, at, means.tolist()))
    label_steps(axes)
    return finish(axes, title, f"{title}: {trend(values, 'tokens')}.", series, unit="tokens")


def _weight_range(metrics: Sequence[Mapping[str, Any]]) -> Chart | None:
    steps, low = _curve(metrics, "weight_min")
    _, high = _curve(metrics, "weight_max")
    if not steps or len(low) != len(high):
        return None
    axes = new_axes("f")
    axes.axhline(1, color=MUTED, linewidth=0.6)
    if len(steps) == 1:
        axes.plot(steps * 2, [low[0], high[0]], color=BLUE, marker=".", gid=gid("run"))
    else:
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.3, linewidth=0, gid=gid("run"))
        axes.plot(steps, low, color=BLUE, linewidth=1, gid=gid("run"))
        axes.plot(steps, high, color=BLUE, linewidth=1, gid=gid("run"))
    label_steps(axes)
    middle = [(one + other) / 2 for one, other in zip(low, high, strict=True)]
    title = "f: the least and the greatest of each step"
    description = f"{title}; over the whole run between {min(low):.3f} and {max(high):.3f}."
    return finish(axes, title, description, [Series("", "run", steps, middle, low, high)])


def _shares(samples: RunSamples | None) -> Iterator[Chart]:
    """How the weighted advantage was spread over lengths, and over right and wrong answers, over the steps."""
    if samples is None or not samples.mass.any():
        return
    limits = np.quantile(samples.length, (0.25, 0.5, 0.75))
    quarter = np.searchsorted(limits, samples.length, side="left")
    is_right = samples.advantage > 0 if samples.is_graded else samples.grade == 1
    sums = np.stack(
        [samples.by_step(np.where(quarter == q, samples.mass, 0.0)) for q in range(4)]
        + [samples.by_step(np.where(is_right, samples.mass, 0.0))]
    )  # (5, S)
    spans = Spans.of(samples.steps, SPANS)
    steps, sums = spans.first, np.add.reduceat(sums, spans.start, axis=1)
    totals = sums[:4].sum(0)
    steps, shares = steps[totals > 0], 100 * sums[:, totals > 0] / totals[totals > 0]
    names = quarter_names(limits)
    axes = new_axes("%")
    if len(steps) > 1:
        edges = np.vstack([np.zeros(len(steps)), np.cumsum(shares[:4], 0)])
        for q in range(4):
            axes.fill_between(
                steps, edges[q], edges[q + 1], color=BLUE, alpha=(0.2, 0.4, 0.65, 0.9)[q], linewidth=0, gid=gid(f"q{q}")
            )
        axes.set_xlim(steps[0], steps[-1])
        label_steps(axes)
    else:
        axes.bar(names, shares[:4, 0], color=BLUE)
        axes.set_xlabel("quarter of the lengths (tokens)")
    axes.set_ylim(0, 100)
    series = [Series(names[q], f"q{q}", steps.tolist(), shares[q].tolist()) for q in reversed(range(4))]
    title = "Share of the gradient by quarter of the lengths (darker is longer), %"
    means = ", ".join(f"{name} {share:.0f}" for name, share in zip(names, shares[:4].mean(1), strict=True))
    yield finish(axes, title, f"{title}: on average {means}.", series if len(steps) > 1 else (), unit="%")
    axes = new_axes("%")
    axes.axhline(50, color=MUTED, linewidth=0.6)
    values = shares[4].tolist()
    axes.plot(steps, values, color=BLUE, linewidth=1.4, marker=marker(values), gid=gid("run"))
    axes.set_ylim(0, 100)
    label_steps(axes)
    which = "better than their group's mean" if samples.is_graded else "that are right"
    title = f"Share of the gradient in answers {which}, %"
    yield finish(axes, title, f"{title}: {trend(values, '%')}.", [Series("", "run", steps.tolist(), values)], unit="%")
