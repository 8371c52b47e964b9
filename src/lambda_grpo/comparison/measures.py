"""The figures of one finished run in a study, from its directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lambda_grpo.objective import get_objective
from lambda_grpo.runs.directory import Run, sampled_accuracy
from lambda_grpo.runs.record import RunRecord
from lambda_grpo.runs.study_record import Curve, RunFigures

WINDOW = 5  # generations, or logged steps, over which figures are averaged


def measure(run: Run, target_accuracy: float) -> RunFigures:
    """The figures and curves of a run. `target_accuracy`: for `tokens_to_target`."""
    metrics, before, after = run.metrics(), run.evaluation("before"), run.evaluation("after")
    if before is None or after is None:
        raise ValueError(f"{run.path} has no evaluation")
    samples, config = run.completions(), run.config()
    length, weight, advantage = (samples[name].to_numpy() for name in ("length", "weight", "advantage"))
    is_right = np.array([reward == 1.0 for reward in samples["reward"].to_pylist()])
    curve: Curve = {
        "step": [record["step"] for record in metrics],
        "tokens": _column(metrics, "num_tokens"),
        "reward": _column(metrics, "reward"),
        "length": _column(metrics, "completion_length_mean"),
        "entropy": _column(metrics, "entropy"),
        "lambda": _column(metrics, "lambda"),
        "weight_min": _column(metrics, "weight_min"),
        "weight_max": _column(metrics, "weight_max"),
    }
    mass = weight * np.abs(advantage) * length
    max_norm = config["resolved"]["training"]["max_grad_norm"] or math.inf
    norms = _column(metrics, "grad_norm")
    return {
        "accuracy": after["accuracy"],
        "completion_length_mean": after["completion_length_mean"],
        "entropy": _mean(curve["entropy"][-WINDOW:]),
        "lambda": _last(curve["lambda"]),
        "accuracy_before": before["accuracy"],
        "completion_length_mean_before": before["completion_length_mean"],
        "num_tokens": _last(curve["tokens"]),
        "tokens_to_target": _tokens_to(target_accuracy, sampled_accuracy(samples), curve),
        "clip_fraction": _mean(_column(metrics, "clip_ratio/region_mean")),
        "grad_clip_fraction": _mean([None if norm is None else float(norm > max_norm) for norm in norms]),
        "share_by_length_quartile": share_by_length_quartile(length, mass),
        "informative_groups": _mean(_column(metrics, "informative_groups")),
        "git_commit": config.get("git_commit"),
        "limits": _limits(config, [*samples["reward"].to_pylist(), *curve["reward"]]),
        "share_right": None if mass.sum() == 0 else float(mass[is_right].sum() / mass.sum()),
        "curve": curve,
    }


def _limits(config: RunRecord, rewards: Sequence[float | None]) -> dict[str, list[float]]:
    seen = [reward for reward in rewards if reward is not None]
    limits = {
        "completion_length_mean": [0.0, float(config["resolved"]["training"]["max_completion_length"])],
        "lambda": _lambda_bounds(config["resolved"]["training"]) if config["objective"]["learnable"] else None,
        "reward": [min(seen), max(seen)] if seen else None,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _lambda_bounds(settings: dict[str, Any]) -> list[float]:
    return list(settings["lambda_bounds"] or get_objective(settings["objective"]).preference.lambda_bounds)


def share_by_length_quartile(lengths: Any, mass: Any) -> list[float] | None:
    """The share of the mass in each quartile of the lengths, shortest first; None if there is no mass.

    Equal lengths are in the same quartile, so the quartiles may differ in size.
    """
    if mass.sum() == 0:
        return None
    quarter = np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths, side="left")
    return [float(mass[quarter == i].sum() / mass.sum()) for i in range(4)]


def _tokens_to(target: float, accuracy: Sequence[tuple[int, float]], curve: Curve) -> float | None:
    """The tokens sampled when the mean accuracy of WINDOW generations first was the target; None if never.

    accuracy: (step, share) of each generation. A generation may serve several steps, and not every step may be logged.
    """
    for end in range(WINDOW, len(accuracy) + 1):
        if float(np.mean([share for _, share in accuracy[end - WINDOW : end]])) >= target:
            step_reached = accuracy[end - 1][0]
            logged = zip(curve["step"], curve["tokens"], strict=True)
            return next((tokens for step, tokens in logged if step >= step_reached), None)
    return None


def _column(metrics: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [record.get(name) for record in metrics]


def _last(values: Sequence[float | None]) -> float | None:
    return values[-1] if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
