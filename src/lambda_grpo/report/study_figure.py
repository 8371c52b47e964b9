"""The look of a study's figures.

Whatever is drawn of the objective at position i of the study has the id `series-<i>` in the SVG, and its band
`series-<i>-band`, in every chart (`figure.gid`). So the page's one legend switches an objective on and off in all
charts, which have no legends of their own there. The files, for a paper, have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from lambda_grpo.report.figure import SeriesStyle, gid, new_axes, series_styles

WIDTH, HEIGHT = 5.6, 2.5  # inches


@dataclass(frozen=True)
class Arm:
    """How an objective is drawn, the same in every chart. key: its `data-series` on the page."""

    key: str
    style: SeriesStyle

    @property
    def gid(self) -> str:
        return gid(self.key)

    @property
    def band_gid(self) -> str:
        return gid(f"{self.key}-band")


def arms(objectives: Sequence[str]) -> dict[str, Arm]:
    """How each objective is drawn, by its position in the study."""
    return {name: Arm(str(i), style) for i, (name, style) in enumerate(series_styles(objectives).items())}


def study_axes(label: str = "", *, height: float = HEIGHT) -> Axes:
    """An empty chart. Call it and draw within `matplotlib.rc_context(STYLE)`."""
    return new_axes(label, width=WIDTH, height=height)
