"""From a name and settings to an objective and its λ: what the configurations of both engines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from lambda_grpo.objective.lambda_state import LambdaState
from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.presets import get_objective
from lambda_grpo.options.objective import ObjectiveOptions
from lambda_grpo.options.option import check_options

Part = TypeVar("Part")


@dataclass
class ObjectiveSettings(ObjectiveOptions):
    """Which objective, what is set in place of its own, and its λ.

    The settings of λ are for objectives that have one; the others ignore them.
    """

    def resolve_objective(self) -> Objective:
        """The named objective with what is set here in place of its own.

        Raises:
            UserError: no objective has that name.
            ValueError: a value is out of range, or contradicts the objective.
        """
        assert self.objective is not None  # an engine's configuration has a default
        check_options(self)
        objective = get_objective(self.objective)
        preference = replace_set(objective.preference, r=self.lambda_r)
        return replace_set(objective, preference=preference, weight_norm=self.weight_norm)

    def make_lambda_state(self, group_size: int) -> LambdaState:
        """A fresh λ as configured, for groups of so many responses.

        Raises:
            ValueError: a value is out of range.
        """
        preference = self.resolve_objective().preference
        bounds = preference.lambda_bounds if self.lambda_bounds is None else self.lambda_bounds
        if not isinstance(bounds, Sequence) or len(bounds) != 2:
            raise ValueError(f"lambda_bounds takes two values, got {bounds}")
        shape = preference.lambda_shape(group_size)
        init = [self.lambda_init] * shape[0] if shape else self.lambda_init
        return LambdaState(init, self.lambda_lr, self.lambda_optimizer, bounds=(bounds[0], bounds[1]))


def has_setting(part: Any, name: str) -> bool:
    """Whether a part of an objective has a number of that name."""
    return is_dataclass(part) and name in {one.name for one in fields(part)}


def replace_set(part: Part, **settings: Any) -> Part:
    """A part of an objective with those settings that are set (not None) and that it has."""
    found = {name: value for name, value in settings.items() if value is not None and has_setting(part, name)}
    return replace(part, **found) if found else part  # type: ignore[type-var]  # has_setting is of dataclasses


def saturation_warning(lambda_: Any, prefix: str = "") -> str:
    """What to tell a user whose weights are saturated.

    Args:
        lambda_: its value.
        prefix: what stands before the name of a setting in the engine's configuration.
    """
    return (
        f"λ = {lambda_}: in half of the groups one response has nearly all the weight, and λ's gradient vanishes. "
        f"Narrow {prefix}lambda_bounds, or lower lambda_lr"
    )
