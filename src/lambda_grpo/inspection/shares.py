"""How much each length, and right or wrong answers, counted under an objective: shares of f · |A| · |o|."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lambda_grpo.inspection.part import Part
from lambda_grpo.inspection.samples import Array
from lambda_grpo.inspection.spans import Spans
from lambda_grpo.objective import Objective
from lambda_grpo.objective.weights import SATURATED, effective_sample_size


class Cells:
    """The cells that a part's samples are summed in: span × quarter of the lengths × right or wrong.

    Args:
        thresholds: (3,) the quartiles of all lengths.
        right: the reward of a right answer, where rewards have two values; else None, and right means better than the
            group's mean.
        deviation: (n,) advantages of any scale, whose sign says that.

    Attributes:
        first, count: the part's spans.
        start: (count,) the first sample of each.
        last_step: (count,) the last step of each, in the part.
    """

    def __init__(self, part: Part, spans: Spans, thresholds: Array, right: float | None, deviation: Tensor):
        of_step = spans.of_part(part)
        self.first, self.count = int(of_step[0]), int(of_step[-1] - of_step[0]) + 1
        length = part.samples.length
        self.cell = part.of_steps((8 * (of_step - self.first)).astype(np.uint16))
        for threshold in thresholds:
            self.cell += (length > threshold) * np.uint16(2)
        self.cell += part.samples.reward == right if right is not None else deviation.numpy() > 0
        first_step = np.searchsorted(of_step, np.arange(self.first, self.first + self.count + 1))
        self.start = part.step_start[first_step[:-1]]
        self.last_step = first_step[1:] - 1

    @property
    def spans(self) -> slice:
        """The spans that the part has samples of."""
        return slice(self.first, self.first + self.count)

    def sums(self, mass: Array) -> Array:
        """(n,) -> (K, 4, 2)."""
        return np.bincount(self.cell, mass, 8 * self.count).reshape(self.count, 4, 2)


class Shares:
    """Sums under one objective.

    mass: (K, 4, 2) f · |A| · |o| by span, quarter and wrong or right.
    scaled: the sum of all of it with each sample's divided by Z.
    weight_min, weight_max: (K,) least and greatest f.
    lambda_: (K,) λ in a span's last step, the mean of several; NaN where there is none.
    saturated, differing: groups of which one response has nine tenths of the weight, and those whose lengths differ.
    """

    def __init__(self, spans: Spans):
        self.mass = np.zeros((len(spans), 4, 2))
        self.scaled = 0.0
        self.weight_min, self.weight_max = np.full(len(spans), np.inf), np.full(len(spans), -np.inf)
        self.lambda_ = np.full(len(spans), np.nan)
        self.saturated = self.differing = 0

    def add_weights(self, cells: Cells, f: Tensor) -> None:
        """Add a part's (n,) f."""
        for kept, extreme in ((self.weight_min, np.minimum), (self.weight_max, np.maximum)):
            kept[cells.spans] = extreme(kept[cells.spans], extreme.reduceat(f.numpy(), cells.start))

    def add_path(self, part: Part, cells: Cells, f: Tensor, path: Array) -> None:
        """Add a part's (S,) or (S, K) λ of each step."""
        self.lambda_[cells.spans] = path[cells.last_step].reshape(cells.count, -1).mean(1)
        size = effective_sample_size(f, part.ids).numpy()
        self.differing += int(part.differs.sum())
        self.saturated += int((size[part.differs] < SATURATED).sum())

    def add_mass(self, part: Part, cells: Cells, objective: Objective, mass: Array, sums: Array) -> None:
        """Add a part's (n,) masses, and (K, 4, 2) their sums."""
        self.mass[cells.spans] += sums
        self.scaled += float((mass / part.normalizer(objective)).sum())

    def found(self) -> dict[str, Any]:
        """JSON values: shares of all steps, and by span; None where there is no mass."""
        quarters, right = self.mass.sum((0, 2)), self.mass.sum((0, 1))
        total = quarters.sum()
        saturated = self.saturated / self.differing if self.differing else None
        return {
            "share_by_length_quartile": (quarters / total).tolist() if total > 0 else None,
            "share_by_right": (right / total).tolist() if total > 0 else None,
            "weight_range": [float(self.weight_min.min()), float(self.weight_max.max())],
            "saturated": saturated,
            "by_step": self._by_step(),
        }

    def _by_step(self) -> dict[str, Any]:
        totals = self.mass.sum((1, 2))
        has_mass = totals > 0
        shares = self.mass / np.where(has_mass, totals, 1.0)[:, None, None]
        quarters, right = shares.sum(2).tolist(), shares[:, :, 1].sum(1).tolist()
        return {
            "share_by_length_quartile": [one if there else None for one, there in zip(quarters, has_mass, strict=True)],
            "share_right": [one if there else None for one, there in zip(right, has_mass, strict=True)],
            "lambda": [None if np.isnan(one) else one for one in self.lambda_.tolist()],
            "weight_min": self.weight_min.tolist(),
            "weight_max": self.weight_max.tolist(),
        }
