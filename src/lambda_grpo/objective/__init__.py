"""The one formula, L = − Σ_i f_i Σ_t s_it / Z_i, in pure tensors.

It is computed in two stages, because engines break prompt groups up before the loss:

1. groups: once, on whole groups: `group_advantages`, `response_weights`, `loss_normalizer`.
2. tokens: per micro-batch: `policy_loss`, with the weights and the normaliser of stage 1.
"""

from lambda_grpo.objective.groups import Groups, group_advantages
from lambda_grpo.objective.implied import implied_lambda
from lambda_grpo.objective.loss import PolicyLoss, policy_loss
from lambda_grpo.objective.presets import PRESETS, Objective, get_objective
from lambda_grpo.objective.surrogates import SurrogateInputs
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
    "Groups",
    "Objective",
    "PolicyLoss",
    "SurrogateInputs",
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
