"""Options of an objective and its λ, which TRL's and verl's configurations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from lambda_grpo.options.option import option


@dataclass
class ObjectiveOptions:
    """Objective and λ."""

    objective: str | None = option(
        None, "A preset of docs/objective.md, or module:NAME for your own. Default: what loss_type names."
    )
    lambda_init: float = option(0.0, "Initial λ.")
    lambda_lr: Annotated[float, Ge(0)] = option(0.1, "Learning rate of λ; 0 freezes it.")
    lambda_optimizer: Literal["sgd", "adam"] = option("sgd", "Optimiser of λ.")
    lambda_bounds: list[float] | None = option(
        None, "Smallest and largest λ. Default: the objective's own, -10 and 10; -2 and 2 for daro."
    )
    lambda_r: Annotated[float, Gt(0)] | None = option(None, "r of h = 1 + r·z. Default: the objective's own, 1/9.")
    weight_norm: Literal["sum", "tokens"] | None = option(
        None,
        "f as in the paper, or rescaled so that λ can't change the step size. Default: the objective's own, sum.",
    )
