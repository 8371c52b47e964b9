"""Draw the README's figure: how much a token of a short and of a long answer counts, by method.

    python docs/figures/weights.py    # writes weights-light.svg and weights-dark.svg beside this file

The values are `response_weights` of one group with two answers, of 100 and 300 tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from lambda_grpo import response_weights
from lambda_grpo.report.figure import STYLE, svg

LENGTHS = {"short answer": 100, "long answer": 300}
FIXED = {"GRPO": "grpo", "DAPO": "dapo", "Dr. GRPO": "dr_grpo"}
LAMBDAS = torch.linspace(-10, 10, 81, dtype=torch.float64).tolist()
TITLE = "The weight of one token of a short and of a long answer, under GRPO, DAPO, Dr. GRPO and λ-GRPO"


@dataclass(frozen=True)
class Theme:
    """Colours on light or dark ground; short and long are Okabe and Ito's, for every kind of colour vision."""

    ground: str
    ink: str
    short: str
    long: str


THEMES = {
    "light": Theme("#ffffff", "#1c1c1c", "#0072B2", "#D55E00"),
    "dark": Theme("#0d1117", "#e6edf3", "#56B4E9", "#E69F00"),
}


def weights(objective: str, lambda_: float = 0.0) -> list[float]:
    """F of the short and of the long answer, which share a prompt."""
    return response_weights(torch.tensor(list(LENGTHS.values())), torch.zeros(2), objective, lambda_).tolist()


def draw(theme: Theme) -> str:
    """The figure as an SVG file."""
    style = STYLE | {
        "font.family": "sans-serif",
        "font.size": 10,
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "grid.color": theme.ink,
        "grid.alpha": 0.25,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), theme.ink),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        fixed, learned = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
        curves = list(zip(*(weights("lambda_grpo", lambda_) for lambda_ in LAMBDAS), strict=True))
        bars = list(zip(*(weights(name) for name in FIXED.values()), strict=True))
        places = range(len(FIXED))
        for place, (label, colour, hatch, line) in enumerate(
            zip(LENGTHS, (theme.short, theme.long), ("", "///"), ("solid", "dashed"), strict=True)
        ):
            drawn = fixed.bar(
                [x + 0.38 * place - 0.19 for x in places],
                bars[place],
                width=0.36,
                color=theme.ground if hatch else colour,
                edgecolor=colour,
                hatch=hatch,
                label=f"{label} ({LENGTHS[label]} tokens)",
            )
            fixed.bar_label(drawn, fmt="{:.2f}", padding=2)
            learned.plot(LAMBDAS, curves[place], color=colour, linestyle=line, linewidth=2.2)
            learned.annotate(
                label,
                (LAMBDAS[-place], curves[place][-place]),
                (0, 6),
                textcoords="offset points",
                ha=("left", "right")[place],
                color=colour,
            )
        fixed.legend(frameon=False, loc="upper right")
        fixed.set_xticks(places, FIXED)
        fixed.set_ylabel("weight of one token, f")
        fixed.set_title("fixed by hand", fontsize=10)
        fixed.set_ylim(0, 2.6)
        fixed.grid(visible=False, axis="x")
        learned.axvline(0, color=theme.ink, linewidth=0.8)
        learned.annotate("λ = 0: DAPO", (0, 0.06), (4, 0), textcoords="offset points")
        learned.set_xticks([-10, -5, 0, 5, 10])
        learned.set_xlabel("λ")
        learned.set_title("λ-GRPO: learned", fontsize=10)
        return svg(figure, TITLE)


if __name__ == "__main__":
    for name, theme in THEMES.items():
        Path(__file__).with_name(f"weights-{name}.svg").write_text(draw(theme))
