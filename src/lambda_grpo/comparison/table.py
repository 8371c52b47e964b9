"""What a study found on a task, as the terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambda_grpo.comparison.study import ENDPOINTS

NONE = "–"
MEANS = {  # header and digits of an arm's own mean; those in the units of ENDPOINTS
    "accuracy": ("accuracy\n(%)", 1),
    "completion_length_mean": ("length\n(tokens)", 1),
    "entropy": ("entropy\n(nats)", 3),
}


def arms_table(results: Mapping[str, Any], task: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, one for each arm: its mean accuracy, endpoint and λ, then how it differs from the one.

    Means are over seeds, after training. The column of λ is left out where no arm has one.
    """
    study = results["study"]
    unit, factor, _ = ENDPOINTS[study["endpoint"]]
    own = {row["objective"]: row for row in results["objectives"] if row["task"] == task}
    compared = {row["objective"]: row for row in results["comparisons"] if row["task"] == task}
    means = list(dict.fromkeys(["accuracy", study["endpoint"]]))
    has_lambda = any(row["lambda"] for row in own.values())
    header = (
        "",
        *(MEANS[name][0] for name in means),
        *(["λ at\nthe end"] if has_lambda else []),
        f"difference\n({unit})",
        "95 %\ninterval",
        "p\n(Holm)",
        "n",
    )
    rows = []
    for arm in study["objectives"]:
        figures = own.get(arm, {})
        cells = [_mean(figures.get(name), ENDPOINTS[name][1], f".{MEANS[name][1]}f") for name in means]
        if has_lambda:
            cells.append(_mean(figures.get("lambda"), 1.0, "+.4f"))
        seeds = figures["accuracy"]["n"] if figures else 0
        rows.append((arm, *cells, *_difference(compared.get(arm), factor, seeds)))
    return header, rows


def _mean(figure: Mapping[str, Any] | None, factor: float, form: str) -> str:
    return NONE if figure is None else f"{factor * figure['mean']:{form}}"


def _difference(row: Mapping[str, Any] | None, factor: float, seeds: int) -> tuple[str, ...]:
    """Difference, interval, p and n; of the arm that the others are compared with, its number of seeds."""
    if row is None:
        return NONE, NONE, NONE, str(seeds)
    return (
        f"{factor * row['difference']:+.2f}",
        NONE if row["ci95"] is None else " to ".join(f"{factor * end:+.2f}" for end in row["ci95"]),
        NONE if row["p_holm"] is None else f"{row['p_holm']:.3f}",
        str(row["n"]),
    )
