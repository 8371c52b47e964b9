"""The results of a study on a task, as a table for the terminal."""

from __future__ import annotations

from typing import Any

from lambda_grpo.comparison.study import ENDPOINTS
from lambda_grpo.runs.study_record import ComparisonRecord, MeanRecord, StudyRecord

NONE = "–"
MEANS = {  # header and digits of an arm's mean, in the unit of ENDPOINTS
    "accuracy": ("accuracy\n(%)", 1),
    "accuracy_area": ("area\n(%)", 1),
    "tokens_to_target": ("tokens to\ntarget (k)", 1),
    "completion_length_mean": ("length\n(tokens)", 1),
    "entropy": ("entropy\n(nats)", 3),
}


def arms_table(results: StudyRecord, task: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, one per arm: its mean accuracy, endpoint and λ, and the difference from `against`.

    Means are over seeds, after training. The column of λ is left out if no arm has one.
    """
    study = results["study"]
    endpoint = ENDPOINTS[study["endpoint"]]
    own: dict[str, Any] = {record["objective"]: record for record in results["objectives"] if record["task"] == task}
    compared = {record["objective"]: record for record in results["comparisons"] if record["task"] == task}
    means = list(dict.fromkeys(["accuracy", study["endpoint"]]))
    has_lambda = any(record["lambda"] for record in own.values())
    header = (
        "",
        *(MEANS[name][0] for name in means),
        *(["λ at\nthe end"] if has_lambda else []),
        f"difference\n({endpoint.unit})",
        "95 %\ninterval",
        "p\n(Holm)",
        "n",
    )
    rows = []
    for arm in study["objectives"]:
        figures = own.get(arm, {})
        cells = [_mean(figures.get(name), ENDPOINTS[name].factor, f".{MEANS[name][1]}f") for name in means]
        if has_lambda:
            cells.append(_mean(figures.get("lambda"), 1.0, "+.4f"))
        seeds = figures["accuracy"]["n"] if figures else 0
        rows.append((arm, *cells, *_difference(compared.get(arm), endpoint.factor, seeds)))
    return header, rows


def _mean(figure: MeanRecord | None, factor: float, form: str) -> str:
    return NONE if figure is None else f"{factor * figure['mean']:{form}}"


def _difference(record: ComparisonRecord | None, factor: float, seeds: int) -> tuple[str, ...]:
    """Difference, interval, p and n; for `against` only its number of seeds."""
    if record is None:
        return NONE, NONE, NONE, str(seeds)
    return (
        f"{factor * record['difference']:+.2f}",
        NONE if record["ci95"] is None else " to ".join(f"{factor * end:+.2f}" for end in record["ci95"]),
        NONE if record["p_holm"] is None else f"{record['p_holm']:.3f}",
        str(record["n"]),
    )
