"""The figures of one finished run in a study, from its directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lambda_grpo.machine import processor
from lambda_grpo.objective import get_objective
from lambda_grpo.runs.directory import Run, grades, sampled_accuracy
from lambda_grpo.runs.limits import reward_limits
from lambda_grpo.runs.record import RunRecord
from lambda_grpo.runs.study_record import Curve, HalfRecord, RunFigures

ROUNDING = 1e-9  # of two means of equal grades
WINDOW = 5  # generations, or logged steps, over which figures are averaged


def measure(run: Run, target_accuracy: float) -> RunFigures:
    """The figures and curves of a run. `target_accuracy`: for `tokens_to_target`."""
    metrics, evaluations = run.metrics(), run.evaluations()
    if len(evaluations) < 2:
        raise ValueError(f"{run.path} has no evaluation before and after training")
    before, after = evaluations[0], evaluations[-1]
    samples, config = run.completions(), run.config()
    length, weight, advantage = (samples[name].to_numpy() for name in ("length", "weight", "advantage"))
    task = config["data"]["name"]
    of_samples, accuracy = grades(samples, task), sampled_accuracy(samples, task)
    is_right = np.array([grade == 1.0 for grade in of_samples])
    steps = [record["step"] for record in metrics]
    curve: Curve = {
        "step": steps,
        "tokens": _column(metrics, "num_tokens"),
        "reward": _column(metrics, "reward"),
        "length": _column(metrics, "completion_length_mean"),
        "entropy": _column(metrics, "entropy"),
        "lambda": _column(metrics, "lambda"),
        "weight_min": _column(metrics, "weight_min"),
        "weight_max": _column(metrics, "weight_max"),
        "accuracy": at_steps(accuracy, steps),
    }
    mass = weight * np.abs(advantage) * length
    max_norm = config["resolved"]["training"]["max_grad_norm"] or math.inf
    norms = _column(metrics, "grad_norm")
    in_tokens = config["resolved"]["training"].get("max_generated_tokens") is not None
    verdicts = [[verdict == "1" for verdict in one["verdicts"]] for one in evaluations]
    weights = np.diff([one["generated_tokens" if in_tokens else "step"] for one in evaluations])
    return {
        "accuracy": after["accuracy"],
        "accuracy_area": _area(verdicts, weights),
        "choosing": _half(verdicts, weights, 0),
        "reported": _half(verdicts, weights, 1),
        "score_mean": after["score_mean"],
        "graded": any(grade not in (None, 0.0, 1.0) for grade in of_samples)
        or abs(after["score_mean"] - after["accuracy"]) > ROUNDING,
        "completion_length_mean": after["completion_length_mean"],
        "entropy": _mean(curve["entropy"][-WINDOW:]),
        "lambda": _last(curve["lambda"]),
        "accuracy_before": before["accuracy"],
        "completion_length_mean_before": before["completion_length_mean"],
        "num_tokens": _last(curve["tokens"]),
        "tokens_to_target": _tokens_to(target_accuracy, accuracy, curve),
        "clip_fraction": _mean(_column(metrics, "clip_ratio/region_mean")),
        "grad_clip_fraction": _mean([None if norm is None else float(norm > max_norm) for norm in norms]),
        "share_by_length_quartile": share_by_length_quartile(length, mass),
        "informative_groups": _mean(_column(metrics, "informative_groups")),
        "git_commit": config.get("git_commit"),
        "limits": _limits(config, [*samples["reward"].to_pylist(), *curve["reward"]], _last(curve["tokens"])),
        "share_right": None if mass.sum() == 0 else float(mass[is_right].sum() / mass.sum()),
        "curve": curve,
        "held_out": {
            "step": [one["step"] for one in evaluations],
            "accuracy": [one["accuracy"] for one in evaluations],
            "length": [_rounded(one["completion_length_mean"]) for one in evaluations],
        },
        "machine": machine(),
    }


def machine() -> str:
    """The kind of processor and the number of threads, on which the digits of a run depend."""
    import torch

    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' * (threads > 1)}"


def _half(verdicts: Sequence[Sequence[bool]], weights: Any, first: int) -> HalfRecord:
    """The figures on every second problem: the even ones choose learning rates, the odd ones are reported."""
    own = [one[first::2] for one in verdicts]
    return {"accuracy": float(np.mean(own[-1])), "accuracy_area": _area(own, weights)}


def _area(verdicts: Sequence[Sequence[bool]], weights: Any) -> float | None:
    """The mean accuracy over the evaluations, each weighted by the steps or tokens since the one before.

    None without evaluations during training.
    """
    if len(verdicts) < 3:
        return None
    return float(np.average([np.mean(one) for one in verdicts[1:]], weights=weights))


def _limits(config: RunRecord, rewards: Sequence[float | None], num_tokens: float | None) -> dict[str, list[float]]:
    limits = {
        "completion_length_mean": [0.0, float(config["resolved"]["training"]["max_completion_length"])],
        "lambda": _lambda_bounds(config["resolved"]["training"]) if config["objective"]["learnable"] else None,
        "reward": list(reward_limits(rewards)),
        "tokens_to_target": None if num_tokens is None else [0.0, num_tokens],  # of a run that reaches it
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _lambda_bounds(settings: dict[str, Any]) -> list[float]:
    return list(settings["lambda_bounds"] or get_objective(settings["objective"]).preference.lambda_bounds)


def at_steps(generations: Sequence[tuple[int, float]], steps: Sequence[int]) -> list[float | None]:
    """Of (step, value) of each generation, the mean of those since the logged step before; None if there were none."""
    means = []
    for previous, step in zip([0, *steps], steps, strict=False):
        means.append(_mean([value for at, value in generations if previous < at <= step]))
    return means


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
    return [_rounded(record.get(name)) for record in metrics]


def _rounded(value: Any) -> Any:
    """To seven digits, all that single precision has: a study's record has the curves of all its runs."""
    return float(f"{value:.7g}") if isinstance(value, float) and math.isfinite(value) else value


def _last(values: Sequence[float | None]) -> float | None:
    return values[-1] if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
