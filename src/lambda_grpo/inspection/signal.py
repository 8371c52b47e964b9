"""Whether length and reward go together: the evidence for a preference for some lengths, and the lack of any signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from lambda_grpo.inspection.part import Part
from lambda_grpo.inspection.samples import Array
from lambda_grpo.objective.groups import Groups, has_variance

NORMAL_95 = NormalDist().inv_cdf(0.975)  # two-sided


@dataclass(frozen=True)
class LengthSignal:
    """How length and reward go together within groups.

    groups: those that can say something: rewards and lengths both differ.
    correlation: of standardised length and reward, both as differences from their group's mean, over these groups.
    ci95: its interval, robust to any dependence within a group; None for fewer than two groups.
    covariance: mean over the groups of the covariance of reward and standardised length, with its own interval.
    """

    groups: int
    correlation: float | None
    ci95: tuple[float, float] | None
    covariance: float | None
    covariance_ci95: tuple[float, float] | None


class SignalSums:
    """Sums over groups from which `LengthSignal` follows, added a part at a time."""

    def __init__(self) -> None:
        self.moments: list[Array] = []  # (3, groups): Σzz, Σrr, Σzr of each group that says something
        self.group_count = self.without_variance = self.alone = 0

    def add(self, part: Part) -> Array:
        """Add a part. Returns (P,) whether a group has no signal."""
        return np.concatenate([self._add(part.lengths[r], part.rewards[r], part.ids[r]) for r in part.pieces()])

    def _add(self, lengths: Tensor, rewards: Tensor, ids: Tensor) -> Array:
        groups = Groups.of(lengths, ids)
        scored = ~rewards.isnan()
        differs = groups.per_group(has_variance(rewards, ids))
        self.group_count += groups.count
        sizes = groups.per_group(groups.size)
        self.alone += int((sizes == 1).sum())
        self.without_variance += int((~differs & (sizes > 1)).sum())
        z = torch.where(scored, groups.standardised_length, 0.0)
        known = torch.where(scored, rewards, 0.0)
        count = groups.sum(scored.double()).clamp(min=1)
        centred = torch.where(scored, known - groups.sum(known) / count, 0.0)
        z = torch.where(scored, z - groups.sum(z) / count, 0.0)
        sums = torch.stack([groups.per_group(groups.sum(x)) for x in (z * z, centred * centred, z * centred)])
        says = differs & (sums[0] > 1e-9) & (sums[1] > 0)
        self.moments.append(sums[:, says].numpy())
        silent: Array = (~differs).numpy()
        return silent

    def found(self) -> LengthSignal:
        """The statistics of all that was added."""
        zz, rr, zr = np.concatenate(self.moments, 1) if self.moments else np.zeros((3, 0))
        n = len(zz)
        if n == 0:
            return LengthSignal(0, None, None, None, None)
        scale = math.sqrt(zz.sum() * rr.sum())
        rho = float(zr.sum() / scale)
        mean = float(np.mean(zr))
        if n == 1:
            return LengthSignal(1, rho, None, mean, None)
        # the delta method: what each group contributes to the difference of the ratio from its expectation
        influence = zr / scale - rho / 2 * (zz / zz.sum() + rr / rr.sum())
        margin = NORMAL_95 * math.sqrt(n / (n - 1) * float((influence**2).sum()))
        ends = (max(-1.0, rho - margin), min(1.0, rho + margin))
        covariance_margin = NORMAL_95 * float(np.std(zr, ddof=1)) / math.sqrt(n)
        return LengthSignal(n, rho, ends, mean, (mean - covariance_margin, mean + covariance_margin))
