"""How a study's figures look, and how they are saved."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lambda_grpo.report.run_charts import inline, label_steps, svg

# Okabe and Ito's, for every kind of colour vision; light ones last
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
Line = Literal["solid", "dashed", "dotted", "dashdot"]
LINES: tuple[Line, ...] = ("solid", "dashed", "dotted", "dashdot")  # with HATCHES: once the colours run out
HATCHES = ("", "///", "...", "xxx")


@dataclass(frozen=True)
class Look:
    """How an objective is drawn, the same in every chart."""

    colour: str
    line: Line
    hatch: str


@dataclass(frozen=True)
class Chart:
    """A figure as its two files, and as a part of the page."""

    caption: str
    svg: str
    png: bytes

    @property
    def inline(self) -> Markup:
        return inline(self.svg)


def looks(objectives: list[str]) -> dict[str, Look]:
    """A look for each objective, by its place in the study."""
    rounds = [(divmod(place, len(PALETTE)), name) for place, name in enumerate(objectives)]
    return {name: Look(PALETTE[i], LINES[turn % 4], HATCHES[turn % 4]) for (turn, i), name in rounds}


def chart(figure: Figure, caption: str) -> Chart:
    """Save a figure; the style at the time of the call holds."""
    png = io.BytesIO()
    # no software's name and no date: the same numbers give the same file
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    return Chart(caption, svg(figure, caption), png.getvalue())


def curves(label: str) -> tuple[Figure, Axes]:
    """An empty chart over steps."""
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = figure.subplots()
    label_steps(axes)
    axes.set_ylabel(label)
    return figure, axes


def legend(figure: Figure, handles: list[Any]) -> None:
    """Below the chart, in as many columns as fit, and the figure the taller for it."""
    labels = [handle.get_label() for handle in handles]
    columns = max(1, min(len(labels), 80 // (max(map(len, labels)) + 8)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
