"""Spans of consecutive steps: what is said over the course of a run is said of each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lambda_grpo.inspection.part import Part
from lambda_grpo.inspection.samples import Array

SPANS = 500  # at most: a chart shows no more


@dataclass(frozen=True)
class Spans:
    """K spans of S steps.

    of_step: (S,) the span of each step, ascending.
    start: (K,) the first step of each span, as an index.
    first, last: (K,) the numbers of a span's first and last step.
    """

    of_step: Array
    start: Array
    first: Array
    last: Array

    @classmethod
    def of(cls, steps: Array, limit: int | None = None) -> Spans:
        """At most `limit` spans (SPANS) of about the same number of steps, of (S,) the steps' numbers."""
        count = min(len(steps), limit or SPANS)
        of_step = np.arange(len(steps)) * count // len(steps)
        start = np.searchsorted(of_step, np.arange(count + 1))
        return cls(of_step, start[:-1], steps[start[:-1]], steps[start[1:] - 1])

    def __len__(self) -> int:
        return len(self.first)

    def of_part(self, part: Part) -> Array:
        """(S,) the span of each step of a part."""
        return self.of_step[part.first : part.first + part.steps]


class SpanMeans:
    """Means of rewards and lengths, and groups without a signal, by span."""

    def __init__(self, spans: Spans):
        self.spans = spans
        self.rows, self.scored, self.reward, self.length = np.zeros((4, len(spans)))
        self.groups, self.silent = np.zeros((2, len(spans)))

    def add(self, part: Part, is_silent: Array) -> None:
        """Add a part. is_silent: (P,) whether a group has no signal."""
        of_step, reward = self.spans.of_part(part), part.samples.reward
        is_scored = ~np.isnan(reward)
        for sums, values in (
            (self.rows, part.step_sizes),
            (self.scored, part.step_sums(is_scored.astype(float))),
            (self.reward, part.step_sums(np.where(is_scored, reward, 0.0))),
            (self.length, part.step_sums(part.samples.length)),
            (self.groups, np.bincount(part.group_step, minlength=part.steps)),
            (self.silent, np.bincount(part.group_step, is_silent, part.steps)),
        ):
            sums += np.bincount(of_step, values, len(self.spans))

    def found(self) -> dict[str, Any]:
        """JSON values, a list over spans each. A mean reward is None where no sample was scored."""
        return {
            "reward_mean": [
                total / count if count else None
                for total, count in zip(self.reward.tolist(), self.scored.tolist(), strict=True)
            ],
            "length_mean": (self.length / self.rows).tolist(),
            "groups_without_signal": (self.silent / self.groups).tolist(),
        }
