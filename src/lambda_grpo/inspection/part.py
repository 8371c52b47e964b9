"""A part of the samples: whole steps, with what all objectives compute from them in common."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lambda_grpo.inspection.samples import Array, Samples
from lambda_grpo.objective import Objective, group_advantages
from lambda_grpo.objective.groups import ADVANTAGE_EPSILON
from lambda_grpo.objective.objective import AdvantageScale

ROWS = 2**17  # of a part: more don't fit into a processor's caches, fewer cost more calls


class Part:
    """Whole steps of n samples in P groups of S steps, each step a batch.

    Args:
        samples: of these steps.
        first: number of the first step among all.
        max_completion_length: the longest that a completion may be, which some objectives divide by.

    Attributes:
        lengths, rewards: (n,) float64.
        ids: (n,) the group of each sample, 0 .. P - 1.
        group_start, step_start: (P,) and (S,) the first sample of each.
        step_sizes, step_groups: (S,) samples and groups of each step.
        group_step: (P,) the step of each group, 0 .. S - 1.
    """

    def __init__(self, samples: Samples, first: int, max_completion_length: int):
        self.samples, self.first, self.max_completion_length = samples, first, max_completion_length
        self.group_start, self.step_start = samples.group_start[:-1], samples.step_start[:-1]
        self.lengths = torch.from_numpy(samples.length)
        self.rewards = torch.from_numpy(samples.reward)
        self.ids = torch.from_numpy(samples.group_index)
        self.step_sizes = np.diff(samples.step_start)
        self.step_groups = np.diff(np.searchsorted(samples.group_start, samples.step_start))
        self.group_step = np.repeat(np.arange(self.steps), self.step_groups)
        self._advantages: dict[AdvantageScale, Tensor] = {}

    @property
    def steps(self) -> int:
        """S."""
        return len(self.step_start)

    @cached_property
    def differs(self) -> Array:
        """(P,) whether a group's lengths differ."""
        length = self.samples.length
        return np.maximum.reduceat(length, self.group_start) > np.minimum.reduceat(length, self.group_start)

    def rows(self) -> Iterator[slice]:
        """The rows of each step."""
        for start, size in zip(self.step_start.tolist(), self.step_sizes.tolist(), strict=True):
            yield slice(start, start + size)

    def pieces(self, rows: slice | None = None) -> Iterator[slice]:
        """Rows of whole groups, about ROWS at a time, of some steps or of all: for what needs no whole step."""
        start, end = (0, len(self.lengths)) if rows is None else (rows.start, rows.stop)
        while start < end:
            group = int(np.searchsorted(self.samples.group_start, start + ROWS, side="right")) - 1
            stop = min(int(self.samples.group_start[group]), end)
            if stop <= start:  # a group of more than ROWS
                stop = int(self.samples.group_start[group + 1])
            yield slice(start, stop)
            start = stop

    def step_sums(self, values: Array) -> Array:
        """(n,) -> (S,)."""
        return np.add.reduceat(values, self.step_start)

    def group_sums(self, values: Array) -> Array:
        """(n,) -> (P,)."""
        return np.add.reduceat(values, self.group_start)

    def of_steps(self, values: Array) -> Array:
        """(S,) -> (n,): the value of each sample's step."""
        return np.repeat(values, self.step_sizes)

    def of_groups(self, values: Array) -> Array:
        """(P,) -> (n,): the value of each sample's group."""
        return np.repeat(values, self.samples.group_size)

    def advantages(self, objective: Objective) -> Tensor:
        """(n,) under an objective."""
        scale: AdvantageScale = "none" if objective.advantage_scale == "batch" else objective.advantage_scale
        if scale not in self._advantages:
            self._advantages[scale] = group_advantages(self.rewards, self.ids, scale)
        found = self._advantages[scale]
        if objective.advantage_scale == "batch":
            found = found / self._batch_scale
        return found if objective.advantage_min is None else found.clamp(min=objective.advantage_min)

    @property
    def _batch_scale(self) -> Tensor:
        """(n,) the standard deviation of the rewards of each sample's step, and ε."""
        is_scored = ~np.isnan(self.samples.reward)
        count = self.step_sums(is_scored.astype(float))
        mean = self.step_sums(np.where(is_scored, self.samples.reward, 0.0)) / np.maximum(count, 1)
        squares = np.where(is_scored, self.samples.reward - self.of_steps(mean), 0.0) ** 2
        deviation = np.sqrt(self.step_sums(squares) / np.maximum(count - 1, 1))
        return torch.from_numpy(self.of_steps(deviation + ADVANTAGE_EPSILON))

    def normalizer(self, objective: Objective) -> Array:
        """(n,) Z of each sample. A micro-batch's own is taken for the batch's."""
        match objective.normalizer:
            case "group":
                tokens = self.group_sums(self.samples.length)
                return self.of_groups(np.maximum(tokens * self.step_groups[self.group_step], 1))
            case "responses":
                return self.of_steps(self.step_sizes.astype(float))
            case "constant":
                return self.of_steps(self.step_sizes * float(self.max_completion_length))
            case _:
                return self.of_steps(np.maximum(self.step_sums(self.samples.length), 1))


def parts(samples: Samples, max_completion_length: int) -> Iterator[Part]:
    """The parts of all samples, each of about ROWS of them, at least one step."""
    first = 0
    while first < len(samples.steps):
        last = int(np.searchsorted(samples.step_start, samples.step_start[first] + ROWS, side="right")) - 1
        last = min(max(last, first + 1), len(samples.steps))
        yield Part(samples.part(first, last), first, max_completion_length)
        first = last
