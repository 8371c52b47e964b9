"""The token preference f: how much each token of a response counts, one class for each way of weighting responses.

A preference is a pure function of (groups, λ) in float64, and states what an engine has to know about it.
`weights.response_weights` applies the conventions that all preferences share. Preferences that differ between the
tokens of a response are in `token_preferences`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lambda_grpo.objective.groups import Groups

ENTROPY_FLOOR = 1e-6  # nats: below it a response has no choice left to be unsure of
FLOOR = 0.005  # the smallest linear weight
H_FLOOR = 0.005  # below the least h of a group of 81 at r = 1/9, which is 1 − √80/9 = 0.0062
MAX_LOG_POWER = 700.0  # exp(700) is finite in float64, exp(710) is not
MAX_POWER = torch.tensor(MAX_LOG_POWER, dtype=torch.float64).exp().item()


Need = Literal["advantages", "entropies", "completion_ids"]


class Preference(ABC):
    """How much each token of a response counts. Subclass it for your own; make it a frozen dataclass if it has fields.

    Attributes:
        needs: fields of `Groups` that it reads in addition to the lengths.
        per_token: whether f differs between the tokens of a response: f is (B, T) then, (B,) otherwise.
        learnable: whether f depends on λ.
        lambda_bounds: the default bounds of λ.
        lambda_favours_length: whether λ > 0 favours longer responses and λ < 0 shorter ones, for use in reports.
        weighs_groups: whether f differs between groups, but not within a group.
        reads_batch: whether f of a group depends on the other groups of the batch.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    per_token: ClassVar[bool] = False
    learnable: ClassVar[bool] = False
    lambda_bounds: ClassVar[tuple[float, float]] = (-10.0, 10.0)
    lambda_favours_length: ClassVar[bool] = False
    weighs_groups: ClassVar[bool] = False
    reads_batch: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        """(B,) or (B, T) token preferences f, of float64 λ in the shape of `lambda_shape`."""

    def lambda_shape(self, group_size: int) -> tuple[int, ...]:
        """Shape of λ for groups of `group_size` responses: () for one number."""
        return ()

    def penalty(self, groups: Groups, lambda_: Tensor) -> Tensor:
        """Scalar penalty on λ itself, added to the loss of a whole batch."""
        return groups.lengths.new_zeros(())


@dataclass(frozen=True)
class Uniform(Preference):
    """f = 1: every token counts alike (DAPO, arXiv 2503.14476; Dr. GRPO, arXiv 2503.20783)."""

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        return torch.ones_like(groups.lengths)


@dataclass(frozen=True)
class InverseLength(Preference):
    """f = μ/|o|: every response counts alike (GRPO, arXiv 2402.03300)."""

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        return groups.mean_length / groups.lengths


@dataclass(frozen=True)
class SignBalanced(Preference):
    """f = (G±/G) / (N±/N): balanced aggregation, arXiv 2605.04077, as third-party accounts describe it.

    The responses with A > 0 and those with A < 0 each have their own token mean; the two means are weighted by their
    numbers of responses G±. N±: their tokens, N: the group's. Responses with A = 0 are a third such part.
    """

    needs = ("advantages",)

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        assert groups.advantages is not None  # in `needs`
        weights = torch.zeros_like(groups.lengths)
        for sign in (-1, 0, 1):
            part = (groups.advantages.sign() == sign).double()
            share_of_responses = groups.sum(part) / groups.size
            share_of_tokens = groups.sum(part * groups.lengths) / groups.total_length
            weights = weights + part * share_of_responses / share_of_tokens.clamp(min=1e-300)
        return weights


@dataclass(frozen=True)
class InverseEntropy(Preference):
    """f = μ/|o| · H̄/H, H a response's mean token entropy, H̄ its group's: EDGE-GRPO's advantage, arXiv 2507.21848.

    Â = A / (H/H̄) on GRPO: confident right answers are pushed up more, and confident wrong ones down. The mean is over
    real tokens and is detached (in the authors' code it includes padding, and isn't).
    """

    needs = ("entropies",)

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        assert groups.entropies is not None  # in `needs`
        assert groups.token_mask is not None
        tokens = torch.where(groups.token_mask, groups.entropies.detach().double(), 0.0).sum(1)
        entropy = (tokens / groups.lengths.clamp(min=1)).clamp(min=ENTROPY_FLOOR)
        has_tokens = groups.lengths > 0
        mean = groups.sum(torch.where(has_tokens, entropy, 0.0)) / groups.sum(has_tokens.double()).clamp(min=1)
        return groups.mean_length / groups.lengths * mean / entropy


@dataclass(frozen=True)
class InverseLengthPower(Preference):
    """f = |o|^−α over its mean in the batch: ΔL normalisation, arXiv 2509.07558, as its authors' code has it.

    α = 1 has the minimum variance; the authors train with 0.75 on mathematics.
    """

    reads_batch = True

    alpha: float = 0.75

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        has_tokens = groups.lengths > 0
        weights = torch.where(has_tokens, groups.lengths.clamp(min=1) ** -self.alpha, 0.0)
        return weights * (weights.numel() / weights.sum().clamp(min=1e-300))


@dataclass(frozen=True)
class PassRateWeights(Preference):
    """f = w_k · P·N / N_k, w_k = e^(λ_k) for groups with k right answers of G: DARO, arXiv 2510.09001.

    N is the number of tokens of all P groups, N_k that of the groups with pass rate k/G, which have their own token
    mean. λ has a value for each k = 1 .. G − 1; a single number is used for all of them. An answer is right if A > 0,
    which is correct for rewards of 0 and 1. Groups that are all right or all wrong have A = 0, and f = 1.

    From third-party accounts of the paper. Learning w as its logarithm, and within bounds, is our choice: if a loss
    L_k isn't above 0, w_k L_k − ln w_k has no minimum, and on policy L_k is near 0, so w_k rises to its bound.
    """

    needs = ("advantages",)
    learnable = True
    lambda_bounds = (-2.0, 2.0)
    weighs_groups = True
    reads_batch = True

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        right, is_mixed = _right_answers(groups)
        share = groups.count * groups.total_length / _over_groups(groups, groups.total_length, right).clamp(min=1)
        return torch.where(is_mixed, _of_pass_rate(groups, lambda_).exp() * share, 1.0)

    def lambda_shape(self, group_size: int) -> tuple[int, ...]:
        """One λ for each number of right answers from 1 to G − 1."""
        return (group_size - 1,)

    def penalty(self, groups: Groups, lambda_: Tensor) -> Tensor:
        """− Σ_k ln w_k over the pass rates that occur: DARO's second term, which keeps w from vanishing."""
        right, is_mixed = _right_answers(groups)
        repeats = _over_groups(groups, torch.ones_like(groups.total_length), right)
        each = torch.where(is_mixed, _of_pass_rate(groups, lambda_) / repeats, 0.0)
        return -groups.per_group(each).sum()


def _right_answers(groups: Groups) -> tuple[Tensor, Tensor]:
    """Number of right answers in each response's group, and whether the group has both right and wrong ones."""
    assert groups.advantages is not None  # in `needs`
    right = groups.sum((groups.advantages > 0).double()).long()
    return right, (right > 0) & (right < groups.size)


def _over_groups(groups: Groups, values: Tensor, right: Tensor) -> Tensor:
    """The sum of a group's value over all groups with the same number of right answers."""
    keys, each = groups.per_group(right), groups.per_group(values)
    return each.new_zeros(int(groups.size.max()) + 1 if len(keys) else 0).index_add(0, keys, each)[right]


def _of_pass_rate(groups: Groups, lambda_: Tensor) -> Tensor:
    """(G − 1,) or (): the λ of each response's group, anything where the group isn't mixed."""
    if lambda_.dim() == 0:
        return lambda_.expand_as(groups.size)
    right, is_mixed = _right_answers(groups)
    if (groups.size[is_mixed] != len(lambda_) + 1).any():
        raise ValueError(f"λ holds {len(lambda_)} values, one for each pass rate of groups of {len(lambda_) + 1}")
    return lambda_[torch.where(is_mixed, right - 1, 0)]


@dataclass(frozen=True)
class _LengthPreference(Preference):
    """λ-GRPO's three forms: f depends on the standardised length z, scaled by r."""

    learnable = True
    lambda_favours_length = True

    r: float = 1 / 9

    def __post_init__(self) -> None:
        if not self.r > 0:
            raise ValueError(f"r must be positive, got {self.r}")


@dataclass(frozen=True)
class LambdaSoftmax(_LengthPreference):
    """f = G · softmax(h^λ), h = 1 + r·z: λ-GRPO, arXiv 2510.06870. Longer responses count more where λ > 0."""

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        with torch.no_grad():
            log_h = positive_part(groups.standardised_length.mul_(self.r).add_(1)).log_()
            if not lambda_.requires_grad:
                return groups.softmax_(log_h.mul_(lambda_).clamp_(max=MAX_LOG_POWER).exp_())
            power = (lambda_ * log_h).clamp_(max=MAX_LOG_POWER).exp_()
            weights = groups.softmax(power)
            # ∂f/∂λ = f · (g ln h − mean of f · g ln h), g = h^λ, 0 for a g that is capped: its gradient, taken beside
            # f. Autograd through the softmax would take several times as long over so few numbers.
            slope = power * log_h * (power < MAX_POWER)
            slope = weights * (slope - groups.mean(weights * slope))
        return torch.addcmul(weights, slope, lambda_ - lambda_.detach())


@dataclass(frozen=True)
class LambdaExp(_LengthPreference):
    """f = G · softmax(r·λ·z): λ-GRPO with an exponential in place of the power. Smooth for every r, G and λ."""

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        return groups.softmax(self.r * lambda_ * groups.standardised_length)


@dataclass(frozen=True)
class LambdaLinear(_LengthPreference):
    """f = 1 + r·λ·z, kept above 0, then scaled to Σ f = G: λ-GRPO's linear form."""

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        weights = (1 + self.r * lambda_ * groups.standardised_length).clamp(min=FLOOR)
        return weights * (groups.size / groups.sum(weights))


def positive_part(h: Tensor) -> Tensor:
    """H where h >= H_FLOOR; below, c²/(2c − h) with c = H_FLOOR: smooth, increasing and positive, as h^λ requires.

    The paper's h = 1 + r·z can reach 0 for G > 81 at r = 1/9 (max |z| in a group is √(G−1)).
    """
    if h.numel() > 0 and h.min() >= H_FLOOR:  # nearly every batch
        return h
    return torch.where(h >= H_FLOOR, h, H_FLOOR**2 / (2 * H_FLOOR - h.clamp(max=H_FLOOR)))
