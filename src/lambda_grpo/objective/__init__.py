"""The one formula, L = − Σ_i f_i Σ_t s_it / Z_i, in pure tensors.

It is computed in two stages, because engines break prompt groups up before the loss:

1. groups: once, on whole groups: `group_advantages`, `response_weights`, `loss_normalizer`.
2. tokens: per micro-batch: `policy_loss`, with the weights and the normaliser of stage 1.

An `Objective` names the parts: a preference f, a surrogate s, a normaliser Z, and what is done to samples before the
loss. `PRESETS` holds the published ones. One of your own is a subclass of `Preference` or `Surrogate`, and a line.
"""

from lambda_grpo.objective.groups import Groups, group_advantages
from lambda_grpo.objective.implied import implied_lambda
from lambda_grpo.objective.lambda_state import LambdaState
from lambda_grpo.objective.loss import PolicyLoss, policy_loss
from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.preferences import (
    InverseEntropy,
    InverseLength,
    InverseLengthPower,
    LambdaExp,
    LambdaLinear,
    LambdaSoftmax,
    PassRateWeights,
    Preference,
    SignBalanced,
    Uniform,
)
from lambda_grpo.objective.presets import PRESETS, get_objective
from lambda_grpo.objective.rollout_spec import AtLeast, BestAndWorst, ErrorCorrection, RolloutSpec, Selection
from lambda_grpo.objective.surrogates import (
    CappedWeight,
    Clip,
    GammaWeight,
    GeometricMean,
    LengthBand,
    SoftGate,
    Surrogate,
    SurrogateInputs,
    TracedClip,
    clip_log_ratio,
)
from lambda_grpo.objective.token_preferences import SharedPrefix, TailDecay
from lambda_grpo.objective.weights import (
    effective_sample_size,
    is_saturated,
    lambda_penalty,
    loss_normalizer,
    mean_weights,
    response_weights,
)

__all__ = [
    "PRESETS",
    "AtLeast",
    "BestAndWorst",
    "CappedWeight",
    "Clip",
    "ErrorCorrection",
    "GammaWeight",
    "GeometricMean",
    "Groups",
    "InverseEntropy",
    "InverseLength",
    "InverseLengthPower",
    "LambdaExp",
    "LambdaLinear",
    "LambdaSoftmax",
    "LambdaState",
    "LengthBand",
    "Objective",
    "PassRateWeights",
    "PolicyLoss",
    "Preference",
    "RolloutSpec",
    "Selection",
    "SharedPrefix",
    "SignBalanced",
    "SoftGate",
    "Surrogate",
    "SurrogateInputs",
    "TailDecay",
    "TracedClip",
    "Uniform",
    "clip_log_ratio",
    "effective_sample_size",
    "get_objective",
    "group_advantages",
    "implied_lambda",
    "is_saturated",
    "lambda_penalty",
    "loss_normalizer",
    "mean_weights",
    "policy_loss",
    "response_weights",
]
