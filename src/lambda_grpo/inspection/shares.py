"""How much each length, and right or wrong answers, counted under an objective: shares of f · |A| · |o|."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lambda_grpo.inspection.replay import Replay
from lambda_grpo.inspection.samples import Array, Samples
from lambda_grpo.objective import Objective, group_advantages, response_weights
from lambda_grpo.objective.weights import SATURATED, effective_sample_size

ROWS = 2**19  # rows of a part, whole steps, that is computed at once


@dataclass
class Shares:
    """Sums of f · |A| · |o| under one objective, of S steps.

    by_quartile: (S, 4), right: (S, 2) of wrong and right answers, scaled: (S,) with each sample's divided by Z.
    weight_min, weight_max: (S,) least and greatest f.
    saturated, differing: groups of which one response has nine tenths of the weight, and those whose lengths differ.
    """

    by_quartile: Array
    by_right: Array
    scaled: Array
    weight_min: Array
    weight_max: Array
    saturated: int = 0
    differing: int = 0
    replay: Replay | None = None


class Part:
    """Whole steps of samples with what all objectives share.

    Args:
        first: number of its first step among all.
        thresholds: (3,) the quartiles of all lengths.
        right: the reward of a right answer, where rewards have two values; else None, and right means better than the
            group's mean.
    """

    def __init__(self, samples: Samples, first: int, thresholds: Array, right: float | None):
        self.samples, self.first = samples, first
        self.lengths = torch.from_numpy(samples.length)
        self.rewards = torch.from_numpy(samples.reward)
        self.ids = torch.from_numpy(samples.group_index)
        self.step_start = samples.step_start
        self.step = np.repeat(np.arange(len(samples.steps)), np.diff(samples.step_start))
        self.quartile = np.searchsorted(thresholds, samples.length, side="left")
        self._advantages: dict[str, Tensor] = {}
        advantages = self.advantages("group")
        self.is_right = (samples.reward == right) if right is not None else advantages.numpy() > 0
        self.tokens = np.add.reduceat(samples.length, self.step_start[:-1])  # (S,)

    def steps(self) -> Iterator[tuple[int, slice]]:
        """The number of each step in this part, and its rows."""
        for i in range(len(self.step_start) - 1):
            yield i, slice(int(self.step_start[i]), int(self.step_start[i + 1]))

    def advantages(self, scale: str) -> Tensor:
        """(n,) of all steps; the standard deviation of a batch is that of a step."""
        if scale not in self._advantages:
            if scale == "batch":
                pieces = [group_advantages(self.rewards[rows], self.ids[rows], scale) for _, rows in self.steps()]
                self._advantages[scale] = torch.cat(pieces)
            else:
                self._advantages[scale] = group_advantages(self.rewards, self.ids, scale)
        return self._advantages[scale]

    def normalizer(self, objective: Objective, max_completion_length: int) -> Array:
        """(n,) Z of each sample, a step being a batch. A micro-batch's own is taken for the batch's."""
        sizes = np.diff(self.step_start)
        match objective.normalizer:
            case "group":
                group = self.samples.group_start
                tokens = np.repeat(np.add.reduceat(self.samples.length, group[:-1]), np.diff(group))
                groups = np.diff(np.searchsorted(group, self.step_start))
                return np.maximum(tokens * groups[self.step], 1)
            case "responses":
                return sizes.astype(float)[self.step]
            case "constant":
                return (sizes * float(max_completion_length))[self.step]
            case _:
                return np.maximum(self.tokens, 1)[self.step]


def empty(steps: int) -> Shares:
    """Of no sample."""
    return Shares(np.zeros((steps, 4)), np.zeros((steps, 2)), np.zeros(steps), np.zeros(steps), np.zeros(steps))


def weights(part: Part, objective: Objective, advantages: Tensor, replay: Replay | None) -> Tensor:
    """(n,) f of the part's samples; of an objective with λ at the λ of each step, which takes its step."""
    if replay is not None:
        return torch.cat(
            [replay.step(part.lengths[rows], part.ids[rows], advantages[rows]) for _, rows in part.steps()]
        )
    if objective.preference.reads_batch:
        pieces = [
            response_weights(part.lengths[rows], part.ids[rows], objective, advantages=advantages[rows])
            for _, rows in part.steps()
        ]
        return torch.cat(pieces)
    return response_weights(part.lengths, part.ids, objective, advantages=advantages)


def add(shares: Shares, part: Part, objective: Objective, f: Tensor, max_completion_length: int) -> None:
    """Add a part's samples, whose f is given."""
    advantages = part.advantages(objective.advantage_scale)
    if objective.advantage_min is not None:
        advantages = advantages.clamp(min=objective.advantage_min)
    mass = (f * advantages.abs() * part.lengths).numpy()
    count, first = len(part.step_start) - 1, part.first
    rows = slice(first, first + count)
    shares.by_quartile[rows] = np.bincount(4 * part.step + part.quartile, mass, 4 * count).reshape(count, 4)
    shares.by_right[rows] = np.bincount(2 * part.step + part.is_right, mass, 2 * count).reshape(count, 2)
    shares.scaled[rows] = np.bincount(part.step, mass / part.normalizer(objective, max_completion_length), count)
    shares.weight_min[rows] = np.minimum.reduceat(f.numpy(), part.step_start[:-1])
    shares.weight_max[rows] = np.maximum.reduceat(f.numpy(), part.step_start[:-1])
    if objective.preference.learnable:
        size = effective_sample_size(f, part.ids)
        start = part.samples.group_start[:-1]
        differs = np.maximum.reduceat(part.samples.length, start) > np.minimum.reduceat(part.samples.length, start)
        shares.differing += int(differs.sum())
        shares.saturated += int((size.numpy()[differs] < SATURATED).sum())
