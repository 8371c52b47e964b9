"""lambda-grpo: train with every objective of the GRPO family under one formula, and learn the choice between them.

The base package needs torch alone; engines live in `lambda_grpo.backends`.
"""

from lambda_grpo.lambda_state import LambdaState
from lambda_grpo.objective import (
    PRESETS,
    Objective,
    PolicyLoss,
    group_advantages,
    loss_normalizer,
    policy_loss,
    response_weights,
)

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "LambdaState",
    "Objective",
    "PolicyLoss",
    "__version__",
    "group_advantages",
    "loss_normalizer",
    "policy_loss",
    "response_weights",
]
