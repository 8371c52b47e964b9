"""Stage 2, part one: the surrogate s_it, one class for each way of using the ratio.

A surrogate maps a micro-batch's tokens (B, T) to (B, T), or to (B, 1) if all tokens of a response have the same value
s_i. All surrogates are positively homogeneous in the advantage, so multiplying the advantage by a token preference
f > 0 is the same as multiplying the surrogate.

PPO's clip, min(ρA, clip(ρ)A), is applied to log ρ: value and gradient are the same, and a clipped ratio that would
overflow leaves no NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lambda_grpo.objective.traces import both_trace, check_decay, recent_trace
from lambda_grpo.suggestions import did_you_mean

SAPO_MAX_LOG_RATIO = 20.0  # the gate is flat to the last bit of float64 long before
MAX_LOG_WEIGHT = 20.0  # of a whole sequence's ratio
VESPO_LOG_WEIGHT = (math.log(1e-8), MAX_LOG_WEIGHT)  # TRL's


@dataclass(frozen=True)
class SurrogateInputs:
    """A micro-batch: the input of a surrogate. Zero outside the mask.

    per_token_logps: (B, T) log π.
    log_ratio: (B, T) log ρ = log π − log π_old.
    advantages: (B, 1).
    mask: (B, T) booleans, the tokens that carry loss.
    epsilon, epsilon_high: the caller's clip range, for a surrogate that has none of its own.
    """

    per_token_logps: Tensor
    log_ratio: Tensor
    advantages: Tensor
    mask: Tensor
    epsilon: float = 0.2
    epsilon_high: float = 0.2

    def sequence_sum(self, values: Tensor) -> Tensor:
        """(B, T) -> (B, 1): the sum over each response's tokens."""
        return (values * self.mask).sum(1, keepdim=True)

    def sequence_mean(self, values: Tensor) -> Tensor:
        """(B, T) -> (B, 1): the mean over each response's tokens."""
        return self.sequence_sum(values) / self.mask.sum(1, keepdim=True).clamp(min=1)


class Surrogate(ABC):
    """The function of ratios and advantages that a method maximises. Subclass it for your own.

    Where the advantage is 0, its value and gradient have to be 0, so that trainers may skip such responses.
    """

    @property
    def per_response(self) -> bool:
        """Whether it has one value per response, (B, 1), instead of one per token."""
        return False

    @abstractmethod
    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        """Surrogate, (B, T) or (B, 1), and whether its ratio is clipped, of the same shape."""


class _PositiveNumbers(Surrogate):
    """A surrogate whose numbers have to be above 0. Raises ValueError, naming the one that isn't."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")


@dataclass(frozen=True)
class Clip(_PositiveNumbers):
    """min(ρA, clip(ρ, 1 − ε, 1 + ε_high)A), PPO (arXiv 1707.06347, eq. 7).

    level: "token", or "sequence" for GSPO's one ratio per response, exp(mean of log ρ) (arXiv 2507.18071).
    epsilon, epsilon_high: None for the caller's; ε_high defaults to ε.
    """

    level: Literal["token", "sequence"] = "token"
    epsilon: float | None = None
    epsilon_high: float | None = None

    def __post_init__(self) -> None:
        if self.level not in (known := ("token", "sequence")):
            meant = did_you_mean(str(self.level), known)
            raise ValueError(f"the level of a ratio is {self.level!r}{meant}, it must be 'token' or 'sequence'")
        super().__post_init__()

    @property
    def per_response(self) -> bool:
        """A sequence's ratio is the same for all of its tokens."""
        return self.level == "sequence"

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        low, high = clip_range(self, inputs)
        log_ratio = inputs.log_ratio if self.level == "token" else inputs.sequence_mean(inputs.log_ratio)
        clipped, is_clipped = clip_log_ratio(log_ratio, inputs.advantages, _log(1 - low), math.log1p(high))
        return clipped.exp() * inputs.advantages, is_clipped


@dataclass(frozen=True)
class TracedClip(Surrogate):
    """PPO's clip on a traced ratio, exp(Σ_k w_tk log ρ_k) over the tokens k <= t: GRPO-λ (arXiv 2510.00194).

    The gradient reaches every earlier token, as with eligibility traces. t − k counts all tokens of the completion,
    including a tool's, whose log ρ is 0 here. On policy token k gets A · Σ_{t>=k} w_tk, which is GAE with A as each
    step's TD error. From third-party accounts of the paper and public ports: λ_trace is the paper's, γ = 1 the
    ports'. Where the clip doesn't bound it (A < 0), the log-ratio is capped at 20: a sum of thousands would overflow.

    trace: "recent", w_tk = (γλ)^(t−k); or "both", w_tk = max((γλ)^(t−k), (γλ)^k), which favours the first tokens too.
    gamma, lambda_trace: γ and λ, between 0 and 1. Only their product counts; 0 is PPO's clip under "recent".
    epsilon, epsilon_high: None for the caller's; ε_high defaults to ε.
    """

    trace: Literal["recent", "both"] = "recent"
    gamma: float = 1.0
    lambda_trace: float = 0.99
    epsilon: float | None = None
    epsilon_high: float | None = None

    def __post_init__(self) -> None:
        if self.trace not in (known := ("recent", "both")):
            meant = did_you_mean(str(self.trace), known)
            raise ValueError(f"the trace is {self.trace!r}{meant}, it must be 'recent' or 'both'")
        check_decay(self.gamma, self.lambda_trace)
        Clip("token", self.epsilon, self.epsilon_high)  # refuses values out of range

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        low, high = clip_range(self, inputs)
        decay = self.gamma * self.lambda_trace
        accumulate = recent_trace if self.trace == "recent" else both_trace
        log_ratio = accumulate(inputs.log_ratio, decay).clamp(max=MAX_LOG_WEIGHT)
        clipped, is_clipped = clip_log_ratio(log_ratio, inputs.advantages, _log(1 - low), math.log1p(high))
        return clipped.exp() * inputs.advantages, is_clipped


@dataclass(frozen=True)
class GeometricMean(_PositiveNumbers):
    """exp(mean of clipped log ρ) · A, the clip on each token's log ρ: GMPO (arXiv 2507.20673, eq. 4).

    epsilon, epsilon_high: log ρ is clipped to −ε and ε_high, which defaults to ε.
    """

    epsilon: float = 0.4
    epsilon_high: float | None = None

    @property
    def per_response(self) -> bool:
        """One value for the whole response."""
        return True

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        low, high = clip_range(self, inputs)
        clipped, is_clipped = clip_log_ratio(inputs.log_ratio, inputs.advantages, -low, high)
        return inputs.sequence_mean(clipped).exp() * inputs.advantages, is_clipped


@dataclass(frozen=True)
class LengthBand(_PositiveNumbers):
    """PPO's clip on the whole sequence's ratio W = Π ρ, log W clipped to ±c·√|o|: FSPO (arXiv 2509.09177).

    The spread of a sum of |o| terms grows as √|o|, so long and short responses are clipped equally often. From
    third-party accounts of the paper, which also give the value of c; the band has no drift term, as in the paper's
    later versions. Where the clip doesn't bound it (A < 0), log W is capped at 20: a product of thousands of ratios
    would overflow.
    """

    c_low: float = 0.03
    c_high: float = 0.03

    @property
    def per_response(self) -> bool:
        """One value for the whole response."""
        return True

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        width = inputs.mask.sum(1, keepdim=True).to(inputs.log_ratio.dtype).sqrt()
        log_weight = inputs.sequence_sum(inputs.log_ratio).clamp(max=MAX_LOG_WEIGHT)
        clipped, is_clipped = clip_log_ratio(log_weight, inputs.advantages, -self.c_low * width, self.c_high * width)
        return clipped.exp() * inputs.advantages, is_clipped


@dataclass(frozen=True)
class CappedWeight(_PositiveNumbers):
    """sg(min(ρ, cap)) · A · log π: CISPO (arXiv 2506.13585, eq. 4–5). No token loses its gradient."""

    cap: float = 5.0

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        log_ratio = inputs.log_ratio.detach()
        weight = log_ratio.clamp(max=math.log(self.cap)).exp()
        return weight * inputs.advantages * inputs.per_token_logps, log_ratio > math.log(self.cap)


@dataclass(frozen=True)
class SoftGate(_PositiveNumbers):
    """σ(τ(ρ − 1)) · 4/τ · A, τ by the sign of A: SAPO (arXiv 2511.20347, eq. 5–6). Nothing is clipped."""

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        tau = _where(inputs.advantages > 0, self.tau_pos, self.tau_neg, inputs.advantages)
        gate = torch.sigmoid(tau * torch.expm1(inputs.log_ratio.clamp(max=SAPO_MAX_LOG_RATIO))) * 4 / tau
        return gate * inputs.advantages, torch.zeros_like(inputs.mask)


@dataclass(frozen=True)
class GammaWeight(_PositiveNumbers):
    """sg(W^k e^{c(1 − W)}) · A · log π, W the whole sequence's ratio: VESPO (arXiv 2602.10693, eq. 20).

    Nothing is clipped.
    k, c: by the sign of A; `neg` is for A < 0.
    """

    k_pos: float = 2.0
    c_pos: float = 3.0
    k_neg: float = 3.0
    c_neg: float = 2.0

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        log_ratio = inputs.log_ratio.detach().clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT)
        log_weight = inputs.sequence_sum(log_ratio).clamp(*VESPO_LOG_WEIGHT)
        rises = inputs.advantages >= 0
        k = _where(rises, self.k_pos, self.k_neg, log_weight)
        c = _where(rises, self.c_pos, self.c_neg, log_weight)
        weight = (k * log_weight - c * torch.expm1(log_weight)).exp()
        return weight * inputs.advantages * inputs.per_token_logps, torch.zeros_like(inputs.mask)


def clip_log_ratio(
    log_ratio: Tensor, advantages: Tensor, low: float | Tensor, high: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Clip log ρ as min(ρA, clip(ρ)A) does: to at most `high` for A >= 0, to at least `low` for A < 0.

    Returns:
        The clipped log ρ, and where the clip changed it.
    """
    rises = advantages >= 0
    clipped = torch.where(rises, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    return clipped, torch.where(rises, (log_ratio > high) & (advantages > 0), log_ratio < low)


def clip_range(surrogate: Clip | GeometricMean | TracedClip, inputs: SurrogateInputs) -> tuple[float, float]:
    """The surrogate's own (ε, ε_high), or the caller's where it names none; its own ε stands for both."""
    if surrogate.epsilon is not None:
        return surrogate.epsilon, surrogate.epsilon if surrogate.epsilon_high is None else surrogate.epsilon_high
    return inputs.epsilon, inputs.epsilon_high if surrogate.epsilon_high is None else surrogate.epsilon_high


def reference_kl(per_token_logps: Tensor, ref_per_token_logps: Tensor) -> Tensor:
    """e^d − d − 1 with d = log π_ref − log π: an unbiased estimate of KL(π ‖ π_ref) (arXiv 2402.03300, eq. 4)."""
    difference = ref_per_token_logps - per_token_logps
    return difference.exp() - difference - 1


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf  # ε of 1 or more: no lower bound


def _where(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    """torch.where of two numbers, which by itself would round them to float32."""
    return torch.where(condition, like.new_tensor(yes), like.new_tensor(no))
