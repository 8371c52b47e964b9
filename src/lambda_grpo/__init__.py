"""lambda-grpo: train with every objective of the GRPO family under one formula, and learn the choice between them.

The base package needs only torch and annotated-types; engines live in `lambda_grpo.trl` and `lambda_grpo.verl`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambda_grpo.objective import (
        PRESETS,
        LambdaState,
        Objective,
        PolicyLoss,
        effective_sample_size,
        group_advantages,
        implied_lambda,
        lambda_penalty,
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
    "effective_sample_size",
    "group_advantages",
    "implied_lambda",
    "lambda_penalty",
    "loss_normalizer",
    "policy_loss",
    "response_weights",
]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: torch takes seconds, and `lambda-grpo --help` doesn't need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("lambda_grpo.objective"), name)
