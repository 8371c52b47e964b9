"""The samples of a run, or of any logs, on a page: which ones, and their data for the page's script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lambda_grpo.report.listening import Weighed, weigh
from lambda_grpo.report.run_samples import GRADE, Array, RunSamples
from lambda_grpo.report.sample_viewer import CHARACTERS, SampleViewer, conversation, cut, pack, size_of, text_limit

GROUPS = 500  # on a page
READ = 1_000_000  # tokens of the groups that are read to choose from, which is what is in memory at once
TOKENS = 400_000  # with numbers of their own: packed they take about 4.5 MB


def run_viewer(samples: RunSamples, own: str | None) -> SampleViewer:
    """The samples of a run under its own objective, if it is known, and others; those that teach most come first."""
    chosen = _chosen_groups(samples)
    rows = np.concatenate([np.arange(samples.group_start[g], samples.group_start[g + 1]) for g in np.sort(chosen)])
    weighed = weigh(samples, rows, own)
    place = {row: index for index, row in enumerate(rows.tolist())}
    groups: list[dict[str, Any]] = []
    characters = tokens = 0
    whole = dict(zip(rows.tolist(), samples.read(rows), strict=True))
    for number in chosen.tolist():
        members = range(int(samples.group_start[number]), int(samples.group_start[number + 1]))
        found = [whole[row] for row in members]
        characters += size_of(found[0]["prompt"], *(sample["completion"] for sample in found))
        if groups and characters > CHARACTERS:
            break
        tokens += sum(len(sample.get("tokens") or ()) for sample in found)
        of_group = {name: _part(one, [place[row] for row in members]) for name, one in weighed.items()}
        groups.append(_group(found, of_group, per_token=tokens <= TOKENS))
    data = {"kind": "run", "own": own is not None, "graded": samples.is_graded, "objectives": list(weighed)}
    return pack({**data, "groups": groups}, total=len(samples.group_start) - 1)


def _chosen_groups(samples: RunSamples) -> Array:
    """Numbers of the groups that are read for the page, in teaching order."""
    order = _teaching_order(samples)[:GROUPS]
    tokens = np.add.reduceat(samples.length, samples.group_start[:-1])[order].cumsum()
    return order[: max(1, int(np.searchsorted(tokens, READ, side="right")))]


def _teaching_order(samples: RunSamples) -> Array:
    """(P,) groups in the order in which they are worth a look, in turn from each of many steps.

    Within a step groups with both positive and negative advantages come first, then those whose lengths differ most.
    """
    start, end = samples.group_start[:-1], samples.group_start[1:]
    size = end - start
    mean = np.add.reduceat(samples.length, start) / size
    spread = np.sqrt(np.maximum(np.add.reduceat(samples.length.astype(float) ** 2, start) / size - mean**2, 0))
    relative = spread / np.maximum(mean, 1)
    is_mixed = np.add.reduceat(np.abs(samples.advantage), start) > 0
    step = samples.step[start]
    worth = np.lexsort((-relative, ~is_mixed))  # best first
    rank = np.empty(len(start), dtype=np.int64)  # within its step
    by_step = worth[np.argsort(step[worth], kind="stable")]
    first = np.concatenate([[0], np.flatnonzero(np.diff(step[by_step])) + 1, [len(by_step)]])
    rank[by_step] = np.arange(len(by_step)) - np.repeat(first[:-1], np.diff(first))
    steps, index = np.unique(step, return_inverse=True)
    if len(steps) > GROUPS:  # the best group of evenly spaced steps
        chosen = np.unique(np.linspace(0, len(steps) - 1, GROUPS).round().astype(int))
        rank = np.where(np.isin(index, chosen), rank, rank + len(start))
    # of each rank, mixed groups first, from the last step backwards: there the policy is nearest to the result
    order: Array = np.lexsort((-step, rank, ~is_mixed))
    return order


def _part(weighed: Weighed, places: Sequence[int]) -> Weighed:
    return Weighed(weighed.weights[places], weighed.credit[places])


def _group(samples: list[dict[str, Any]], weighed: dict[str, Weighed], *, per_token: bool) -> dict[str, Any]:
    first, limit = samples[0], text_limit(len(samples))
    return {
        "id": first["group"],
        "step": first["step"],
        "prompt": conversation(first["prompt"], limit),
        "answer": None if first["answer"] is None else cut(str(first["answer"]), limit),
        "samples": [
            {
                "text": conversation(sample["completion"], limit),
                "reward": sample["reward"],
                "grade": sample[GRADE],
                "advantage": _short(sample["advantage"]),
                "length": sample["length"],
                "f": [_short(one.weights[i]) for one in weighed.values()],
                "credit": [_short(one.credit[i]) for one in weighed.values()],
                **(_tokens(sample) if per_token else {}),
            }
            for i, sample in enumerate(samples)
        ],
    }


def _tokens(sample: dict[str, Any]) -> dict[str, Any]:
    """What was recorded of the single tokens. The keys are TOKEN_KEYS."""
    if sample.get("tokens") is None:
        return {}
    found: dict[str, Any] = {"tokens": sample["tokens"]}
    for key, name in (("logprobs", "logprobs"), ("entropies", "entropies"), ("token_weights", "weights")):
        if sample.get(key) is not None:
            found[name] = [_short(value) for value in sample[key]]
    if any(sample.get("clipped") or []):
        found["clipped"] = [i for i, is_clipped in enumerate(sample["clipped"]) if is_clipped]
    return found


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")
