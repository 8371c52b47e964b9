"""What a run's gradient listened to: the samples of any run under every objective of the family."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from lambda_grpo.inspection.part import Part, parts
from lambda_grpo.inspection.replay import Replay, replay
from lambda_grpo.inspection.samples import Array, Samples
from lambda_grpo.inspection.shares import Cells, Shares
from lambda_grpo.inspection.signal import SignalSums
from lambda_grpo.inspection.spans import SpanMeans, Spans
from lambda_grpo.inspection.verdict import verdict
from lambda_grpo.inspection.weights import weights
from lambda_grpo.objective import PRESETS, Objective
from lambda_grpo.objective.groups import group_advantages
from lambda_grpo.objective.implied import implied_lambda

IMPLIED_GROUPS = 1000  # groups from which the implied λ is computed: more don't change it
WITHOUT_SCALE = Objective("view", PRESETS["dapo"].preference, advantage_scale="none")


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
        JSON values: `rows`, `groups`, `steps`, `left_out`, `length_and_reward`, `verdict`; `step_spans`, the first and
        last step of at most 500 spans of steps, and `by_step`, lists over these spans; and by objective
        `share_by_length_quartile`, `share_by_right` (wrong, right), `implied_lambda`, `lambda`, its own `by_step` and
        more, as docs/inspect.md lists them.
    """
    longest = max_completion_length or max(int(samples.length.max()), 1)
    thresholds = np.quantile(samples.length, (0.25, 0.5, 0.75))
    right, graded = _right(samples.reward)
    views = list(dict.fromkeys(_view(one) for one in objectives.values() if _reason(one) is None))
    sizes = _learning_sizes(samples)
    replays = {view: one for view in views if view.preference.learnable and (one := replay(view, lambda_lr, sizes))}
    spans = Spans.of(samples.steps)
    found = {view: Shares(spans) for view in views}
    signal, means = SignalSums(), SpanMeans(spans)
    for part in parts(samples, longest):
        means.add(part, signal.add(part))
        cells = Cells(part, spans, thresholds, right, part.advantages(WITHOUT_SCALE))
        for alike in _grouped(views, lambda view: _weights_key(view, view in replays)):
            _add(part, cells, alike, found, replays.get(alike[0]))
        progress(len(part.lengths))
    by_view = _described(samples, found, replays)
    described = {}
    for name, objective in objectives.items():
        reason = _reason(objective)
        if reason:
            described[name] = {**_NOTHING, "note": reason}
            continue
        view = _view(objective)
        described[name] = {**by_view[view], "note": _note(objective, view in replays, sizes)}
    result: dict[str, Any] = {
        "rows": len(samples),
        "groups": signal.group_count,
        "steps": len(samples.steps),
        "columns": samples.columns,
        "left_out": samples.left_out,
        "unscored": int(np.isnan(samples.reward).sum()),
        "groups_without_signal": signal.without_variance + signal.alone,
        "groups_of_one": signal.alone,
        "graded": graded,
        "length_quartiles": thresholds.tolist(),
        "length_and_reward": asdict(signal.found()),
        "step_spans": [list(span) for span in zip(spans.first.tolist(), spans.last.tolist(), strict=True)],
        "by_step": means.found(),
        "objectives": described,
    }
    return {**result, "verdict": verdict(result)}


def _add(
    part: Part, cells: Cells, views: list[Objective], found: Mapping[Objective, Shares], learned: Replay | None
) -> None:
    """Add a part to the shares of views that have the same f."""
    if learned is None:
        f = weights(part, views[0])
    else:
        f, path = learned.advance(part)
        found[views[0]].add_path(part, cells, f, path)
    for alike in _grouped(views, lambda view: (view.advantage_scale, view.advantage_min)):
        mass = (f * part.advantages(alike[0]).abs() * part.lengths).numpy()
        sums = cells.sums(mass)
        for view in alike:
            found[view].add_weights(cells, f)
            found[view].add_mass(part, cells, view, mass, sums)


def _described(
    samples: Samples, found: Mapping[Objective, Shares], replays: Mapping[Objective, Replay]
) -> dict[Objective, dict[str, Any]]:
    """What is said of each view."""
    chosen, dapo = _evenly(samples, IMPLIED_GROUPS), _view(PRESETS["dapo"])
    reference = found[dapo].scaled if dapo in found else 0.0
    described = {}
    for alike in _grouped(list(found), lambda view: _weights_key(view, view in replays)):
        learned = replays.get(alike[0])
        value = learned.value if learned else 0.0
        implied = _implied(chosen, alike[0], value)
        for view in alike:
            described[view] = {
                "implied_lambda": implied,
                "lambda": float(np.mean(value)) if learned else None,
                "lambdas": value if isinstance(value, list) else None,
                "learning_rate_factor": found[view].scaled / reference if reference > 0 else None,
                **found[view].found(),
            }
    return described


_NOTHING: dict[str, Any] = {
    "implied_lambda": None, "lambda": None, "lambdas": None, "learning_rate_factor": None,
    "share_by_length_quartile": None, "share_by_right": None, "weight_range": None, "saturated": None, "by_step": None,
}  # fmt: skip


def _right(reward: Array) -> tuple[float | None, bool]:
    """The reward of a right answer, where rewards have two values, and whether they have more."""
    known = reward[~np.isnan(reward)]
    if len(known) == 0:
        return None, False
    low, high = known.min(), known.max()
    graded = not ((known == low) | (known == high)).all()
    return (None if graded or low == high else float(high)), graded


def _learning_sizes(samples: Samples) -> tuple[int, int]:
    """The least and greatest number of samples of the groups whose rewards differ; of all if none do."""
    start = samples.group_start[:-1]
    differs = np.fmax.reduceat(samples.reward, start) > np.fmin.reduceat(samples.reward, start)
    sizes = samples.group_size[differs] if differs.any() else np.maximum(samples.group_size.max(keepdims=True), 2)
    return int(sizes.min()), int(sizes.max())


def _reason(objective: Objective) -> str | None:
    """Why an objective can't be applied to lengths and rewards alone; None if it can."""
    if objective.preference.per_token:
        return "it weighs tokens, not responses"
    missing = [name for name in objective.preference.needs if name != "advantages"]
    return f"it needs {' and '.join(missing)}, which these files don't hold" if missing else None


def _note(objective: Objective, is_replayed: bool, sizes: tuple[int, int]) -> str | None:
    """What of an objective isn't applied."""
    notes = []
    if objective.rollouts != type(objective.rollouts)():
        notes.append("its own choice of samples isn't applied")
    if objective.preference.learnable and not is_replayed:
        notes.append(
            "at its starting λ: it learns one for each number of right answers in groups of one size, and these have "
            f"{sizes[0]} to {sizes[1]} samples"
        )
    return "; ".join(notes) or None


def _view(objective: Objective) -> Objective:
    """What of an objective matters here; objectives with equal views have equal results."""
    normalizer = "batch" if objective.normalizer == "micro_batch" else objective.normalizer
    return Objective(
        "view", objective.preference, normalizer, objective.advantage_scale,
        weight_norm=objective.weight_norm, advantage_min=objective.advantage_min,
    )  # fmt: skip


def _weights_key(view: Objective, is_replayed: bool) -> Hashable:
    """Views with equal keys have equal f."""
    advantage = (view.advantage_scale, view.advantage_min) if view.preference.needs else None
    return view if is_replayed else (view.preference, view.weight_norm, advantage)


def _grouped(views: Sequence[Objective], key: Callable[[Objective], Hashable]) -> list[list[Objective]]:
    """Views with equal keys, together."""
    groups: dict[Hashable, list[Objective]] = {}
    for view in views:
        groups.setdefault(key(view), []).append(view)
    return list(groups.values())


def _implied(samples: Samples, objective: Objective, value: float | list[float]) -> float | None:
    ids, rewards = torch.from_numpy(samples.group_index), torch.from_numpy(samples.reward)
    return implied_lambda(
        torch.from_numpy(samples.length), ids, objective, torch.tensor(value, dtype=torch.float64),
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
