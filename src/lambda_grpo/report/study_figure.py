"""The style of a study's figures, and saving them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lambda_grpo.report.run_charts import inline, label_steps, svg

# by Okabe and Ito, for all kinds of colour vision; light ones last
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
Line = Literal["solid", "dashed", "dotted", "dashdot"]
LINES: tuple[Line, ...] = ("solid", "dashed", "dotted", "dashdot")  # like HATCHES, for more objectives than colours
HATCHES = ("", "///", "...", "xxx")


@dataclass(frozen=True)
class LineStyle:
    """How an objective is drawn, the same in every chart."""

    colour: str
    line: Line
    hatch: str


@dataclass(frozen=True)
class Chart:
    """A figure as SVG and PNG files, and as markup for the page."""

    caption: str
    svg: str
    png: bytes

    @property
    def inline(self) -> Markup:
        return inline(self.svg)


def line_styles(objectives: list[str]) -> dict[str, LineStyle]:
    """A style for each objective, by its position in the study."""
    rounds = [(divmod(index, len(PALETTE)), name) for index, name in enumerate(objectives)]
    return {name: LineStyle(PALETTE[i], LINES[turn % 4], HATCHES[turn % 4]) for (turn, i), name in rounds}


def chart(figure: Figure, caption: str) -> Chart:
    """Save a figure, in the current style."""
    png = io.BytesIO()
    # no software name and date: equal numbers give equal files
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
    """Add a legend below the chart, in as many columns as fit, and enlarge the figure for it."""
    labels = [handle.get_label() for handle in handles]
    columns = max(1, min(len(labels), 80 // (max(map(len, labels)) + 8)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
