"""Which of TRL's losses computes an objective, and by what TRL's losses divide.

In `trl.GRPOTrainer` the loss type determines both surrogate and normaliser. An objective is computed with the loss type
that has its surrogate; if that one doesn't divide by the objective's Z, the ratio of the two normalisers is folded into
the advantages, as the token preference is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from lambda_grpo.objective import CappedWeight, Clip, GammaWeight, InverseLength, Objective, SoftGate

# TRL's loss types with PPO's clip, by what they divide by. "grpo" takes the mean over each response's own tokens, then
# over the responses.
CLIP_LOSS_TYPE = {
    "batch": "dapo",
    "group": "grpo",
    "constant": "dr_grpo",
    "responses": "luspo",
    "micro_batch": "bnpo",
}
DIVIDES_BY = {
    **{loss_type: normalizer for normalizer, loss_type in CLIP_LOSS_TYPE.items()},
    "grpo": "response_mean",
    "sapo": "response_mean",
    "cispo": "batch",
    "vespo": "batch",
}


@dataclass(frozen=True)
class TRLLoss:
    """One of TRL's losses, for an objective.

    loss_type: TRL's name.
    settings: further settings of TRL's configuration that it needs.
    has_surrogate: whether it computes the objective's surrogate. If not, it gets advantages of 0, and only computes the
        rest (KL term, entropy bonus, metrics).
    """

    loss_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    has_surrogate: bool = True

    @property
    def divides_by(self) -> str:
        """Its normaliser: one of an objective's, or "response_mean"."""
        return DIVIDES_BY[self.loss_type]


def trl_loss(objective: Objective) -> TRLLoss:
    """The loss of TRL that computes the objective, with its clip range."""
    clip_type = CLIP_LOSS_TYPE[objective.normalizer]
    match objective.surrogate:
        case Clip(level, epsilon, epsilon_high):
            return TRLLoss(
                clip_type, {"importance_sampling_level": level, "epsilon": epsilon, "epsilon_high": epsilon_high}
            )
        case CappedWeight(cap):
            return TRLLoss("cispo", {"epsilon_high": cap})
        case SoftGate(tau_pos, tau_neg):
            return TRLLoss("sapo", {"sapo_temperature_pos": tau_pos, "sapo_temperature_neg": tau_neg})
        case GammaWeight(k_pos, c_pos, k_neg, c_neg):
            settings = {
                "vespo_k_pos": k_pos, "vespo_lambda_pos": c_pos, "vespo_k_neg": k_neg, "vespo_lambda_neg": c_neg,
            }  # fmt: skip
            return TRLLoss("vespo", settings)
    return TRLLoss(clip_type, has_surrogate=False)


def kl_is_exact(objective: Objective) -> bool:
    """Whether TRL's loss averages the KL term as `policy_loss` does for this objective."""
    divides_by = trl_loss(objective).divides_by
    if objective.rollouts.filters_samples and divides_by != "batch":
        return False  # it counts samples, also those that are filtered out
    if divides_by == "response_mean":
        return objective.normalizer == "group" and objective.preference == InverseLength() and objective.kl_weighted
    return objective.normalizer == divides_by and not objective.kl_weighted


def check_nothing_weighs_tokens(config: GRPOConfig, name: str) -> None:
    """Raise ValueError on settings that change TRL's policy term, for an objective whose policy term isn't TRL's."""
    for setting, is_set in (
        ("top_entropy_quantile", config.top_entropy_quantile < 1.0),
        ("off_policy_mask_threshold", config.off_policy_mask_threshold is not None),
        ("delta", config.delta is not None),
        ("vllm_importance_sampling_correction", config.use_vllm and config.vllm_importance_sampling_correction),
    ):
        if is_set:
            raise ValueError(f"objective {name!r} has a surrogate that TRL's losses lack: {setting} doesn't reach it")
