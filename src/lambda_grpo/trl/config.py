"""`trl.GRPOConfig` plus the objective and λ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import get_scheduler
from trl import GRPOConfig

from lambda_grpo.errors import UserError
from lambda_grpo.objective import AtLeast, BestAndWorst, ErrorCorrection, Objective, RolloutSpec, Surrogate
from lambda_grpo.objective.settings import ObjectiveSettings, has_setting, replace_set
from lambda_grpo.options.trl import (
    BudgetOptions,
    CorrectionOptions,
    LambdaScheduleOptions,
    ReplacedOptions,
    SelectionOptions,
    SpeedOptions,
    TraceOptions,
)
from lambda_grpo.suggestions import not_a_choice
from lambda_grpo.trl.losses import kl_is_exact, trl_loss
from lambda_grpo.trl.sampling_config import SamplingConfig

# TRL's keys for numbers of a surrogate that aren't a clip range, and ours
SURROGATE_KEYS = {
    "sapo_temperature_pos": "tau_pos", "sapo_temperature_neg": "tau_neg",
    "vespo_k_pos": "k_pos", "vespo_lambda_pos": "c_pos", "vespo_k_neg": "k_neg", "vespo_lambda_neg": "c_neg",
}  # fmt: skip

# The keys for GRPO-λ's numbers, of a surrogate (TracedClip) or a preference (TailDecay)
TRACE_KEYS = {"trace": "trace", "trace_gamma": "gamma", "trace_lambda": "lambda_trace"}

SCALES = ("group", "batch", "none")  # what advantages are divided by

# Those of transformers' schedules that are functions of the step alone, by the names that they have without warm-up
LAMBDA_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


@dataclass
class LambdaGRPOConfig(
    ObjectiveSettings,
    ReplacedOptions,
    LambdaScheduleOptions,
    BudgetOptions,
    TraceOptions,
    SelectionOptions,
    CorrectionOptions,
    SpeedOptions,
    SamplingConfig,
):
    """`trl.GRPOConfig` plus the objective and λ.

    Where no objective is given, `loss_type` names it; both given and different is an error. `scale_rewards`,
    `epsilon`, `epsilon_high` and `importance_sampling_level` are the objective's own unless they are set here.

    The settings of λ are for objectives that have one.

    Raises:
        ValueError: unknown objective, `loss_type` and `objective` that disagree, values out of range, or a setting
            that contradicts the objective.
    """

    def __post_init__(self) -> None:
        self.settle()
        super().__post_init__()
        if self.max_generated_tokens is not None:
            self._check_constant_schedules()

    def settle(self) -> None:
        """Resolve this project's own fields, and check that they go together."""
        if isinstance(self.objective, Objective):  # a configuration is saved with each model, and read again
            raise ValueError(
                f"objective takes a name, not the Objective {self.objective.name!r} itself: put it into a file "
                "my_file.py under a NAME, and give objective='my_file:NAME'"
            )
        if self.objective is not None and self.loss_type is not None and self.objective != self.loss_type:
            raise ValueError(
                f"objective is {self.objective!r} and loss_type is {self.loss_type!r}: they name the same thing, "
                "give one of them"
            )
        if self.objective is None:
            self.objective = "dapo" if self.loss_type is None else self.loss_type
        # TRL takes booleans too, which a command line gives as words
        scales = {True: "group", False: "none", "true": "group", "false": "none"}
        self.scale_rewards = scales.get(self.scale_rewards, self.scale_rewards)
        if self.scale_rewards not in (None, *SCALES):
            raise ValueError(not_a_choice("scale_rewards", self.scale_rewards, SCALES))
        objective = self.resolve_objective()
        self.scale_rewards = objective.advantage_scale
        self.check_sampling()
        if self.eval_strategy != "no":
            self.fit_eval_batch()
        if self.beta != 0.0 and not kl_is_exact(objective):
            raise ValueError(
                f"objective {objective.name!r} with beta {self.beta}: TRL's {trl_loss(objective).loss_type!r} loss "
                "averages the KL term in another way; set beta to 0, or use an objective whose normaliser it shares"
            )
        if objective.preference.lambda_shape(2) and self.num_generations_eval not in (None, self.num_generations):
            raise ValueError(
                f"objective {objective.name!r} has a λ for each pass rate of {self.num_generations} generations: "
                "leave num_generations_eval out"
            )
        self.make_lambda_state(self.num_generations)  # refuses values out of range

    # -- what the trainer reads --------------------------------------------------------------------------------------

    def resolve_objective(self) -> Objective:
        """The named objective with what is set here in place of its own."""
        objective = super().resolve_objective()
        for key, name in TRACE_KEYS.items():
            has_trace = has_setting(objective.surrogate, name) or has_setting(objective.preference, name)
            if getattr(self, key) is not None and not has_trace:
                raise ValueError(f"objective {objective.name!r} has no {key}: leave it out")
        traces = {name: getattr(self, key) for key, name in TRACE_KEYS.items()}
        return replace_set(
            objective,
            surrogate=self._surrogate(objective, traces),
            preference=replace_set(objective.preference, **traces),
            rollouts=self._rollouts(objective),
            advantage_scale=self.scale_rewards,
            advantage_min=self.advantage_min,
        )

    def lambda_schedule(self, training_steps: int) -> Callable[[int], float]:
        """What multiplies `lambda_lr` at each step of a training of so many steps."""
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))])  # transformers hangs its schedules on one
        schedule = get_scheduler(
            LAMBDA_SCHEDULES[self.lambda_lr_scheduler_type],
            optimizer,
            num_warmup_steps=self.lambda_warmup_steps,
            num_training_steps=training_steps,
        )
        return schedule.lr_lambdas[0]

    def _check_constant_schedules(self) -> None:
        """Raise UserError if a schedule depends on max_steps, before which a budget of tokens may end the training."""
        for key in ("lr_scheduler_type", "lambda_lr_scheduler_type"):
            name = str(getattr(getattr(self, key), "value", getattr(self, key)))
            if not name.startswith("constant"):
                raise UserError(
                    f"max_generated_tokens may end the training before max_steps, on which {key} {name!r} depends: "
                    f"set {key} to constant"
                )
        if 0 < self.warmup_steps < 1:
            raise UserError(
                "max_generated_tokens may end the training before max_steps, of which warmup_steps "
                f"{self.warmup_steps} is a share: set warmup_steps to a number of steps"
            )

    def _rollouts(self, objective: Objective) -> RolloutSpec:
        """What the objective does to its samples, with what is set here in its place."""
        rollouts = objective.rollouts
        if self.dynamic_sampling is not None:
            rollouts = replace(rollouts, dynamic_sampling=self.dynamic_sampling)
        if self.drop_zero_variance:
            rollouts = replace(rollouts, drop_zero_variance=True)
        if self.overlong_buffer_length is not None:
            if self.overlong_buffer_length > self.max_completion_length:
                raise ValueError(
                    f"overlong_buffer_length is {self.overlong_buffer_length}: it must be 0 to max_completion_length "
                    f"({self.max_completion_length})"
                )
            rollouts = replace(rollouts, overlong_buffer=self.overlong_buffer_length / self.max_completion_length)
        if self.select_best_and_worst is not None and self.select_min_reward is not None:
            raise ValueError("select_best_and_worst and select_min_reward both select: give one of them")
        selection: Any = rollouts.selection
        if self.select_best_and_worst is not None:
            selection = BestAndWorst(self.select_best_and_worst)
        elif self.select_min_reward is not None:
            selection = AtLeast(self.select_min_reward)
        if self.selection_baseline is not None:
            if selection is None:
                raise ValueError(f"objective {objective.name!r} selects no samples: leave selection_baseline out")
            selection = replace(selection, baseline=self.selection_baseline)
        if isinstance(selection, BestAndWorst) and 2 * selection.k >= self.num_generations:
            raise ValueError(
                f"the {selection.k} best and {selection.k} worst of {self.num_generations} are all of them: set "
                "select_best_and_worst to less than half of num_generations"
            )
        correction = rollouts.correction
        if self.error_correction is not None:
            if len(self.error_correction) != 3:
                raise ValueError(
                    "error_correction takes three shares (reflect, append the answer, replace by the solution), got "
                    f"{self.error_correction}"
                )
            correction = ErrorCorrection(*self.error_correction) if any(self.error_correction) else None
        rollouts = replace(rollouts, selection=selection, correction=correction)
        is_plain = replace(rollouts, correction=None) == RolloutSpec()
        if self.multi_objective_aggregation != "sum_then_normalize" and not is_plain:
            raise ValueError(
                "dynamic sampling, drop_zero_variance, selection and the overlong penalty need "
                "multi_objective_aggregation 'sum_then_normalize'"
            )
        return rollouts

    def _surrogate(self, objective: Objective, traces: dict[str, Any]) -> Surrogate:
        """The objective's surrogate with what TRL's keys set of its numbers."""
        surrogate, named = objective.surrogate, f"objective {objective.name!r}"
        if self.importance_sampling_level not in (None, "token") and not has_setting(surrogate, "level"):
            raise ValueError(f"{named} forms its ratio by itself: leave importance_sampling_level out")
        # TRL's defaults are the papers' values, as the presets' are: another value was set on purpose
        defaults = GRPOConfig.__dataclass_fields__
        changed = {key for key in SURROGATE_KEYS if getattr(self, key) != defaults[key].default}
        numbers = {name: getattr(self, key) for key, name in SURROGATE_KEYS.items() if key in changed}
        surrogate = replace_set(surrogate, level=self.importance_sampling_level, **traces, **numbers)
        if has_setting(surrogate, "epsilon") and has_setting(surrogate, "epsilon_high"):
            clip: Any = surrogate
            low, high = (clip.epsilon, clip.epsilon_high) if self.epsilon is None else (self.epsilon, None)
            high = high if self.epsilon_high is None else self.epsilon_high
            return replace(clip, epsilon=0.2 if low is None else low, epsilon_high=high)
        if self.epsilon is not None:
            raise ValueError(f"{named} has no lower clip: leave epsilon out")
        if self.epsilon_high is not None and not has_setting(surrogate, "cap"):
            raise ValueError(f"{named} has no upper clip of this kind: leave epsilon_high out")
        return replace_set(surrogate, cap=self.epsilon_high)
