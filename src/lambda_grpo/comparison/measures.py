"""What one finished run contributes to a study, from its directory alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lambda_grpo.objective import get_objective
from lambda_grpo.runs.directory import Run, sampled_accuracy

WINDOW = 5  # generations that an accuracy in training, logged steps that a figure "at the end" is the mean of


def measure(run: Run, target_accuracy: float) -> dict[str, Any]:
    """Its figures and curves, as `results.json` has them.

    entropy: mean of the last steps, in nats per token.
    num_tokens: of all prompts and completions that were sampled for training, as TRL counts them.
    tokens_to_target: of them, when the samples' accuracy over WINDOW generations first was `target_accuracy`; None if
        never.
    clip_fraction: share of tokens whose ratio was clipped, mean over steps; grad_clip_fraction: share of steps whose
        gradient norm was.
    limits: the least and the greatest value that a figure of this run can have. Those of `reward` are what was seen.
    informative_groups: share of the groups that had differing rewards, mean over steps.
    """
    metrics, before, after = run.metrics(), run.evaluation("before"), run.evaluation("after")
    if before is None or after is None:
        raise ValueError(f"{run.path} has no evaluation")
    samples, config = run.completions(), run.config()
    length, weight, advantage = (samples[name].to_numpy() for name in ("length", "weight", "advantage"))
    is_right = np.array([reward == 1.0 for reward in samples["reward"].to_pylist()])
    curve = {
        "step": [row["step"] for row in metrics],
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


def _limits(config: dict[str, Any], rewards: Sequence[float | None]) -> dict[str, list[float]]:
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
    """Shares of the mass in the shortest quarter of lengths, the next, …: four that sum to 1; None without any mass.

    Equal lengths stay together, so quarters hold a quarter of the samples only nearly.
    """
    if mass.sum() == 0:
        return None
    quarter = np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths, side="left")
    return [float(mass[quarter == i].sum() / mass.sum()) for i in range(4)]


def _tokens_to(target: float, accuracy: Sequence[tuple[int, float]], curve: dict[str, list[Any]]) -> float | None:
    """accuracy: (step, share) of each generation; one may serve several steps, and not each step may be logged."""
    for end in range(WINDOW, len(accuracy) + 1):
        if float(np.mean([share for _, share in accuracy[end - WINDOW : end]])) >= target:
            reached = accuracy[end - 1][0]
            logged = zip(curve["step"], curve["tokens"], strict=True)
            return next((tokens for step, tokens in logged if step >= reached), None)
    return None


def _column(metrics: list[dict[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in metrics]


def _last(values: Sequence[float | None]) -> float | None:
    return values[-1] if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
