"""The results of a run in numbers and sentences, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambda_grpo.formatting import percent, percent_range
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.learning_signal import missing_signal

NEARLY_ONE = 0.1  # weights within 1 ± 0.1 hardly differ from DAPO's


@dataclass(frozen=True)
class Summary:
    """A finished or running run in brief."""

    objective: str
    steps: int
    rows: list[tuple[str, str, str]]  # name, before, after
    verdict: list[str]


def summarise(run: Run) -> Summary:
    """Summarise a run directory, also while the run is in progress."""
    config, metrics = run.config(), run.metrics()
    before, after = run.evaluation("before"), run.evaluation("after")
    rows = []
    if before is not None:
        rows += [
            ("accuracy", percent(before["accuracy"]), percent(after["accuracy"]) if after else "–"),
            ("95 % interval", percent_range(before["ci95"]), percent_range(after["ci95"]) if after else "–"),
            ("n (held-out)", str(before["n"]), str(after["n"]) if after else "–"),
            (
                "mean length (tokens)",
                _number(before, "completion_length_mean"),
                _number(after, "completion_length_mean"),
            ),
        ]
    learnable = config["objective"]["learnable"]
    if metrics:
        if learnable:
            rows.append(("λ (first and last step)", f"{metrics[0]['lambda']:+.4f}", f"{metrics[-1]['lambda']:+.4f}"))
        rows.append(("range of f (first and last step)", _weights(metrics[0]), _weights(metrics[-1])))
    verdict = [_accuracy_verdict(before, after), *missing_signal(metrics)]
    if metrics and learnable:
        verdict.append(_lambda_verdict(metrics, favours_length=config["objective"]["lambda_favours_length"]))
    verdict.append(
        "One run with one seed shows whether the policy learned, not whether another objective would do better."
    )
    return Summary(config["objective"]["name"], metrics[-1]["step"] if metrics else 0, rows, verdict)


def _accuracy_verdict(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if before is None:
        return "This run has no held-out evaluation."
    if after is None:
        return "The run hasn't ended: there is no evaluation after training yet."
    change = 100 * (after["accuracy"] - before["accuracy"])
    what = f"{before['task']}, {after['n']} held-out problems"
    figures = f"{percent(before['accuracy'])} → {percent(after['accuracy'])}"
    if after["ci95"][0] > before["ci95"][1]:
        return f"Accuracy rose by {change:.1f} points ({what}: {figures}); the two 95 % intervals don't overlap."
    if after["ci95"][1] < before["ci95"][0]:
        return f"Accuracy fell by {-change:.1f} points ({what}: {figures}); the two 95 % intervals don't overlap."
    return f"No clear change in accuracy ({what}: {figures}, {change:+.1f} points); the two 95 % intervals overlap."


def _lambda_verdict(metrics: Sequence[Mapping[str, Any]], *, favours_length: bool) -> str:
    first, last = metrics[0]["lambda"], metrics[-1]["lambda"]
    weighed = [row for row in metrics if row["weight_min"] is not None]
    if not weighed:
        return f"λ went from {first:+.3f} to {last:+.3f}; all samples of all steps were filtered out."
    low, high = min(row["weight_min"] for row in weighed), max(row["weight_max"] for row in weighed)
    moved = f"λ went from {first:+.3f} to {last:+.3f}; over all steps f lay between {low:.3f} and {high:.3f}"
    if low >= 1 - NEARLY_ONE and high <= 1 + NEARLY_ONE:
        return (
            f"{moved}: nearly f = 1, where all tokens count alike, so little of this result is due to the learned "
            "preference."
        )
    if not favours_length:
        return f"{moved}."
    favoured = "longer" if last > 0 else "shorter"
    return f"{moved}. At the end, tokens of {favoured} responses counted more."


def _number(evaluation: Mapping[str, Any] | None, key: str) -> str:
    return "–" if evaluation is None else f"{evaluation[key]:.1f}"


def _weights(row: Mapping[str, Any]) -> str:
    if row["weight_min"] is None:
        return "all samples filtered out"
    return f"{row['weight_min']:.3f} – {row['weight_max']:.3f}"
