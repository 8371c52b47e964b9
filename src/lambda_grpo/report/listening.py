"""What the objectives of the family make of the same samples: f and f · A of each one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lambda_grpo.objective import PRESETS, Objective, group_advantages, response_weights
from lambda_grpo.report.run_samples import Array, RunSamples

# f of these is shown beside a run's own. λ = ±5 shows what a learned preference would have to be to matter.
SHOWN: dict[str, tuple[Objective, float]] = {
    "grpo": (PRESETS["grpo"], 0.0),
    "dapo": (PRESETS["dapo"], 0.0),
    "dr_grpo": (PRESETS["dr_grpo"], 0.0),
    "lambda_grpo, λ = +5": (PRESETS["lambda_grpo"], 5.0),
    "lambda_grpo, λ = −5": (PRESETS["lambda_grpo"], -5.0),
    "luspo": (PRESETS["luspo"], 0.0),
    "delta_l": (PRESETS["delta_l"], 0.0),
    "balanced": (PRESETS["balanced"], 0.0),
}
# whose shares are in the table of a run's page
COMPARED = {
    name: PRESETS[name] for name in ("grpo", "dapo", "dr_grpo", "lambda_grpo", "luspo", "delta_l", "balanced", "daro")
}
BINS = 16  # of length
DOTS = 1500  # samples in the chart of f over length: more would be a blot


@dataclass(frozen=True)
class Weighed:
    """Samples under one objective: f, and f · A. Both (n,), in the order of the rows asked for."""

    weights: Array
    credit: Array


@dataclass(frozen=True)
class ByLength:
    """Mean f in bins of the length over the mean length of the group, with which f of most objectives goes.

    names: the run's own first, if it is known. centres: (b,) the mean of each bin. curves: by name, (b,) mean f.
    lengths, weights: of some samples, under the first one.
    """

    names: list[str]
    centres: list[float]
    curves: dict[str, list[float]]
    lengths: Array
    weights: Array


def weigh(samples: RunSamples, rows: Array, own: str | None) -> dict[str, Weighed]:
    """The samples of these rows, which must be whole groups, under the run's own objective and under each of SHOWN.

    The run's own, if it is known, are as it recorded them. Objectives that agree in both f and A on all rows are under
    one name.
    """
    found = {} if own is None else {own: Weighed(samples.weight[rows], (samples.weight * samples.advantage)[rows])}
    is_needed = np.isin(samples.step, samples.step[rows])  # whole steps: some objectives look at the whole batch
    position = np.full(len(samples), -1)
    position[rows] = np.arange(len(rows))
    computed = {name: (np.ones(len(rows)), np.zeros(len(rows))) for name in SHOWN}
    for start, end in zip(samples.step_start, samples.step_start[1:], strict=False):
        if not is_needed[start]:
            continue
        lengths = torch.from_numpy(samples.length[start:end])
        rewards = torch.from_numpy(samples.reward[start:end])
        ids = torch.from_numpy(samples.group[start:end])
        shown = position[start:end] >= 0
        into = position[start:end][shown]
        for name, (objective, lambda_) in SHOWN.items():
            advantages = group_advantages(rewards, ids, objective.advantage_scale)
            f = response_weights(lengths, ids, objective, lambda_, advantages=advantages)
            computed[name][0][into] = f.numpy()[shown]
            computed[name][1][into] = (f * advantages).numpy()[shown]
    for name, (weights, credit) in computed.items():
        if name == own or any(_agree(one, weights, credit) for one in found.values()):
            continue
        found[name] = Weighed(weights, credit)
    return found


def _agree(one: Weighed, weights: Array, credit: Array) -> bool:
    # the run's own is recorded in float32, and TRL's advantages are rounded otherwise
    return np.allclose(one.weights, weights, rtol=1e-3, atol=1e-4) and np.allclose(
        one.credit, credit, rtol=1e-2, atol=1e-3
    )


def by_length(samples: RunSamples, own: str | None) -> ByLength | None:
    """f over length, over the samples of up to 100 steps. None if all lengths in a group are the same."""
    chosen = np.unique(np.linspace(0, len(samples.steps) - 1, 100).round().astype(int))
    rows = np.concatenate([np.arange(samples.step_start[i], samples.step_start[i + 1]) for i in chosen])
    _, group, size = np.unique(samples.group[rows], return_inverse=True, return_counts=True)
    mean_length = np.bincount(group, weights=samples.length[rows]) / size
    is_used = mean_length[group] > 0
    rows, lengths = rows[is_used], samples.length[rows][is_used] / mean_length[group][is_used]
    if len(rows) == 0:
        return None
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 2:
        return None
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(bins, minlength=len(edges) - 1)
    used = counts > 0
    weighed = _distinct(weigh(samples, rows, own), own)

    def mean(values: Array) -> list[float]:
        sums = np.bincount(bins, weights=values, minlength=len(counts))
        means: list[float] = (sums[used] / counts[used]).tolist()
        return means

    some = np.linspace(0, len(rows) - 1, min(DOTS, len(rows))).astype(int)
    return ByLength(
        list(weighed),
        mean(lengths),
        {name: mean(one.weights) for name, one in weighed.items()},
        lengths[some],
        next(iter(weighed.values())).weights[some],
    )


def _distinct(found: Mapping[str, Weighed], own: str | None) -> dict[str, Weighed]:
    """Those that differ in f; objectives that share theirs under a joint name, the run's own under its own."""
    merged: list[tuple[list[str], Weighed]] = []
    for name, one in found.items():
        for names, other in merged:
            if np.allclose(other.weights, one.weights, rtol=1e-3, atol=1e-4):
                names.append(name)
                break
        else:
            merged.append(([name], one))
    return {names[0] if names[0] == own else ", ".join(names): one for names, one in merged}


def quarter_names(limits: Array) -> list[str]:
    """Names of the quarters of the lengths, from the (3,) limits between them."""
    first, second, third = (f"{limit:.0f}" for limit in limits)
    return [f"up to {first} tokens", f"up to {second}", f"up to {third}", f"above {third}"]
