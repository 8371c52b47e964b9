"""Charts: Matplotlib figures as SVG, for pages and papers, with what the page's script needs to read values off them.

A page draws the same SVG as a file for a paper, but with the page's colours in place of fixed ones (`COLOURS`), so that
it follows light and dark mode, and with a group for each series (`data-series`), which the page switches on and off.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID = "#1b1f24", "#57606a", "#d0d7de"
# by Okabe and Ito, for all kinds of colour vision; light ones last
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
Line = Literal["solid", "dashed", "dotted", "dashdot"]
LINES: tuple[Line, ...] = ("solid", "dashed", "dotted", "dashdot")  # like HATCHES, for more series than colours
HATCHES = ("", "///", "...", "xxx")
LEGEND_ROW = 0.2  # inches
FORMATS = ("svg", "pdf", "png")  # of a chart's files
# The CSS variables that stand for these colours on a page: static/page.css gives them for light and dark.
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"series-{i}" for i, colour in enumerate(PALETTE)}
STYLE: Any = {  # Any: Matplotlib's type lists all keys
    "svg.fonttype": "none",  # text stays text: the files are small and searchable
    "svg.hashsalt": "lambda-grpo",  # equal numbers give equal files
    "pdf.fonttype": 42,  # fonts that can be edited
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # a $ in a name doesn't start a formula
}


@dataclass(frozen=True)
class SeriesStyle:
    """How a series is drawn: the same in every chart of a page."""

    colour: str
    line: Line
    hatch: str

    @property
    def variable(self) -> str:
        """The page's variable with its colour."""
        return COLOURS[self.colour]


def series_styles(names: Sequence[str]) -> dict[str, SeriesStyle]:
    """A style for each series, by its position."""
    rounds = [(divmod(index, len(PALETTE)), name) for index, name in enumerate(names)]
    return {name: SeriesStyle(PALETTE[i], LINES[turn % 4], HATCHES[turn % 4]) for (turn, i), name in rounds}


@dataclass(frozen=True)
class Series:
    """What the page's script says of a series at the cursor.

    key: the series' `data-series` in the SVG. y: in the unit of the chart. low, high: its band.
    """

    name: str
    key: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """A finished chart.

    title: what it shows. description: the same in a sentence with its main values, for those who can't see it.
    inline: as markup for a page. data: for the page's script, JSON values; empty where there is nothing to read off.
    figure, legend: for the files of a paper, which have a legend with these handles.
    """

    title: str
    description: str
    inline: Markup
    data: dict[str, Any]
    figure: Figure
    legend: Sequence[Any] = ()

    def files(self) -> dict[str, bytes]:
        """The files for a paper by format, without dates and programs' names: equal numbers give equal files."""
        if self.legend:
            _add_legend(self.figure, self.legend)
        with matplotlib.rc_context(STYLE):
            return {
                "svg": svg(self.figure, self.title).encode(),
                "pdf": _file(self.figure, "pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None}),
                "png": _file(self.figure, "png", dpi=200, metadata={"Software": None}),
            }

    @property
    def json(self) -> Markup:
        """`data` as JSON for a script element, which nothing in it can end."""
        return Markup(json.dumps(self.data).replace("<", "\\u003c"))


def svg(figure: Figure, title: str) -> str:
    """A figure as an SVG file, in the current style."""
    return _file(figure, "svg", metadata={"Date": None, "Title": title}).decode()


def _file(figure: Figure, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=format, **options)
    return file.getvalue()


def _inline(figure: Figure) -> Markup:
    """A figure as markup for a page."""
    figure.patch.set_visible(False)
    file = io.StringIO()
    # rather than savefig, which draws everything twice
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    figure.patch.set_visible(True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="series-([^"]*)"', r'<g data-series="\1"', text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in each chart: an id must be one of its kind
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    text = re.sub(r"#[0-9a-f]{6}", lambda found: _variable(found[0]), text)
    text = text.replace("<svg ", '<svg role="img" aria-hidden="true" focusable="false" ', 1)
    # safe: Matplotlib escapes the text in it
    return Markup(text)


def _add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Add a legend below the chart, unless it has one, in as many columns as fit, and enlarge the figure for it."""
    if figure.legends:
        return
    labels = [handle.get_label() for handle in handles]
    columns = max(1, min(len(labels), 80 // (max(map(len, labels)) + 8)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LEGEND_ROW * -(-len(labels) // columns))
    made = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    for handle, drawn, text in zip(handles, made.legend_handles, made.get_texts(), strict=True):
        if drawn is not None:
            drawn.set_gid(handle.get_gid())
        text.set_gid(handle.get_gid())
    ConstrainedLayoutEngine().execute(figure)


def _variable(colour: str) -> str:
    return f"var(--{COLOURS[colour]})" if colour in COLOURS else colour


def new_axes(label: str = "", *, width: float = 4.8, height: float = 2.1) -> Axes:
    """An empty chart with its y label, in inches. Call it and draw within `matplotlib.rc_context(STYLE)`."""
    axes: Axes = Figure(figsize=(width, height), layout="constrained").subplots()
    axes.set_ylabel(label)
    return axes


def label_steps(axes: Axes) -> None:
    """Label the x axis with steps."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def marker(steps: Sized) -> str | None:
    """A curve's marker, without which a single point wouldn't be seen."""
    return "." if len(steps) == 1 else None


def gid(key: str) -> str:
    """The id of what is drawn of a series, for Matplotlib's `gid` argument."""
    return f"series-{key}"


def finish(
    axes: Axes,
    title: str,
    description: str,
    series: Sequence[Series] = (),
    *,
    x: str = "step",
    unit: str = "",
    legend: Sequence[Any] = (),
) -> Chart:
    """A chart, and where its values are on the page. Call it within `matplotlib.rc_context(STYLE)`.

    Args:
        series: what is read off at the cursor.
        x: name of what the x axis shows; charts with the same one share a cursor.
        unit: of the values, "%" or a word.
        legend: handles of the files' legend.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    layout = figure.get_layout_engine()
    assert layout is not None  # `new_axes` sets one
    layout.execute(figure)
    figure.set_layout_engine("none")  # it is known now, and takes as long as drawing
    data = _readings(axes, figure, series, x, unit) if series else {}
    return Chart(title, description, _inline(figure), data, figure, legend)


def _readings(axes: Axes, figure: Figure, series: Sequence[Series], x: str, unit: str) -> dict[str, Any]:
    """What the page's script needs: the box of the axes in the SVG, their limits, and the values."""
    height = figure.bbox.height
    box = axes.get_window_extent()
    points = 72 / figure.dpi  # of SVG in a pixel
    return {
        "x": x,
        "unit": unit,
        "box": [round(value * points, 2) for value in (box.x0, height - box.y1, box.x1, height - box.y0)],
        "limits": [*axes.get_xlim(), *axes.get_ylim()],
        "series": [
            {
                "name": one.name,
                "key": one.key,
                "x": _rounded(one.x),
                "y": _rounded(one.y),
                **({} if one.low is None else {"low": _rounded(one.low)}),
                **({} if one.high is None else {"high": _rounded(one.high)}),
            }
            for one in series
        ],
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def trend(values: Sequence[float], unit: str = "") -> str:
    """A curve in words: its first, last, least and greatest value."""
    first, last, least, greatest = (f"{value:.4g}" for value in (values[0], values[-1], min(values), max(values)))
    unit = unit and f"\u00a0{unit}"
    if len(values) == 1:
        return f"{first}{unit}"
    return f"from {first} to {last}{unit} (least {least}, greatest {greatest})"
