"""What a run's gradient listened to: the samples of any run under every objective of the family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from lambda_grpo.inspection.replay import Replay
from lambda_grpo.inspection.samples import Samples
from lambda_grpo.inspection.shares import ROWS, Part, Shares, add, empty, weights
from lambda_grpo.inspection.signal import SignalSums
from lambda_grpo.inspection.verdict import verdict
from lambda_grpo.objective import PRESETS, LambdaState, Objective
from lambda_grpo.objective.groups import group_advantages
from lambda_grpo.objective.implied import implied_lambda

IMPLIED_GROUPS = 1000  # groups from which the implied λ is computed: more don't change it


def inspect_samples(
    samples: Samples,
    *,
    objectives: Mapping[str, Objective] = PRESETS,
    max_completion_length: int | None = None,
    lambda_lr: float = 0.1,
    progress: Callable[[int], object] = lambda rows: None,
) -> dict[str, Any]:
    """Shares of the gradient by length and by right or wrong under each objective, and the evidence for a preference.

    Args:
        samples: of N samples in S steps.
        objectives: by name.
        max_completion_length: the longest that a completion may be, which some objectives divide by. Default: the
            longest length.
        lambda_lr: learning rate of the replayed λ.
        progress: called with the number of samples of each part that is done.

    Returns:
        JSON values: `rows`, `groups`, `steps`, `left_out`, `length_and_reward`, `verdict`, and by objective
        `share_by_length_quartile`, `share_by_right` (wrong, right), `implied_lambda`, `lambda` and more.
    """
    longest = max_completion_length or max(int(samples.length.max()), 1)
    thresholds = np.quantile(samples.length, (0.25, 0.5, 0.75))
    values = np.unique(samples.reward[~np.isnan(samples.reward)])
    right = float(values[-1]) if len(values) == 2 else None
    views = _views(objectives)
    found = {view: empty(len(samples.steps)) for view in views}
    for view, shares in found.items():
        if _is_replayed(view):
            shares.replay = Replay(view, longest, LambdaState(lr=lambda_lr))
    signal = SignalSums()
    for first, part_of in _parts(samples):
        part = Part(part_of, first, thresholds, right)
        signal.add(part_of, part.ids)
        known: dict[Any, torch.Tensor] = {}
        for view, shares in found.items():
            advantages = part.advantages(view.advantage_scale)
            key = _weights_key(view)
            f = known.get(key) if shares.replay is None else None
            if f is None:
                f = known[key] = weights(part, view, advantages, shares.replay)
            add(shares, part, view, f, longest)
        progress(len(part_of))
    chosen, dapo = _evenly(samples, IMPLIED_GROUPS), _view(PRESETS["dapo"])
    reference = found[dapo].scaled.sum() if dapo in found else 0.0
    implied: dict[Any, float | None] = {}
    for view, shares in found.items():
        if (key := _implied_key(view)) not in implied:
            implied[key] = _implied(chosen, view, shares)
    by_view = {
        view: {
            "implied_lambda": implied[_implied_key(view)],
            **_described(shares),
            "learning_rate_factor": float(shares.scaled.sum() / reference) if reference > 0 else None,
        }
        for view, shares in found.items()
    }
    described = {}
    for name, objective in objectives.items():
        reason = _reason(objective)
        if reason:
            described[name] = {**_NOTHING, "note": reason}
            continue
        described[name] = {**by_view[_view(objective)], "note": _note(objective)}
    length_signal = signal.found()
    result: dict[str, Any] = {
        "rows": len(samples),
        "groups": signal.group_count,
        "steps": len(samples.steps),
        "columns": samples.columns,
        "left_out": samples.left_out,
        "unscored": int(np.isnan(samples.reward).sum()),
        "groups_without_signal": signal.without_variance + signal.alone,
        "groups_of_one": signal.alone,
        "graded": len(values) > 2,
        "length_quartiles": thresholds.tolist(),
        "length_and_reward": asdict(length_signal),
        "objectives": described,
    }
    return {**result, "verdict": verdict(result)}


_NOTHING: dict[str, Any] = {
    "implied_lambda": None, "share_by_length_quartile": None, "share_by_right": None, "lambda": None,
    "weight_range": None, "saturated": None, "learning_rate_factor": None,
}  # fmt: skip


def _reason(objective: Objective) -> str | None:
    """Why an objective can't be applied to lengths and rewards alone; None if it can."""
    if objective.preference.per_token:
        return "it weighs tokens, not responses"
    missing = [name for name in objective.preference.needs if name != "advantages"]
    return f"it needs {' and '.join(missing)}, which these files don't hold" if missing else None


def _note(objective: Objective) -> str | None:
    """What of an objective isn't applied."""
    notes = []
    if objective.rollouts != type(objective.rollouts)():
        notes.append("its own choice of samples isn't applied")
    if objective.preference.learnable and not _is_replayed(objective):
        notes.append("at its starting λ")
    return "; ".join(notes) or None


def _is_replayed(objective: Objective) -> bool:
    """Whether its λ, a single number, is replayed."""
    return objective.preference.learnable and objective.preference.lambda_shape(2) == ()


def _view(objective: Objective) -> Objective:
    """What of an objective matters here; objectives with equal views have equal results."""
    normalizer = "batch" if objective.normalizer == "micro_batch" else objective.normalizer
    return Objective(
        "view", objective.preference, normalizer, objective.advantage_scale,
        weight_norm=objective.weight_norm, advantage_min=objective.advantage_min,
    )  # fmt: skip


def _views(objectives: Mapping[str, Objective]) -> list[Objective]:
    return list(dict.fromkeys(_view(one) for one in objectives.values() if _reason(one) is None))


def _weights_key(view: Objective) -> tuple[Any, ...]:
    """Views with equal keys have equal f, but for λ."""
    return view.preference, view.weight_norm, view.advantage_scale if view.preference.needs else None


def _implied_key(view: Objective) -> Any:
    """Views with equal keys have the same implied λ."""
    return view if _is_replayed(view) else _weights_key(view)


def _parts(samples: Samples) -> Iterator[tuple[int, Samples]]:
    """Whole steps of about ROWS samples, with the number of the first one."""
    first = 0
    while first < len(samples.steps):
        last = int(np.searchsorted(samples.step_start, samples.step_start[first] + ROWS, side="right")) - 1
        last = min(max(last, first + 1), len(samples.steps))
        yield first, samples.part(first, last)
        first = last


def _described(shares: Shares) -> dict[str, Any]:
    quartiles, right = shares.by_quartile.sum(0), shares.by_right.sum(0)
    return {
        "share_by_length_quartile": (quartiles / quartiles.sum()).tolist() if quartiles.sum() > 0 else None,
        "share_by_right": (right / right.sum()).tolist() if right.sum() > 0 else None,
        "lambda": shares.replay.state.value if shares.replay else None,
        "weight_range": [float(shares.weight_min.min()), float(shares.weight_max.max())],
        "saturated": shares.saturated / shares.differing if shares.differing else None,
    }


def _implied(samples: Samples, objective: Objective, shares: Shares) -> float | None:
    ids, rewards = torch.from_numpy(samples.group_index), torch.from_numpy(samples.reward)
    return implied_lambda(
        torch.from_numpy(samples.length), ids, objective, shares.replay.state.value if shares.replay else 0.0,
        advantages=group_advantages(rewards, ids, objective.advantage_scale),
    )  # fmt: skip


def _evenly(samples: Samples, count: int) -> Samples:
    """Some whole groups, evenly spaced."""
    groups = np.unique(np.linspace(0, len(samples.group_size) - 1, count).round().astype(int))
    sizes = samples.group_size[groups]
    rows = np.concatenate([np.arange(samples.group_start[g], samples.group_start[g + 1]) for g in groups])
    start = np.concatenate([[0], np.cumsum(sizes)])
    return replace(
        samples, length=samples.length[rows], reward=samples.reward[rows], group_start=start,
        step_start=np.array([0, len(rows)]), steps=samples.steps[:1],
    )  # fmt: skip
