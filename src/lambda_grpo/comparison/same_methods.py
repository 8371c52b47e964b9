"""Which arms of a study are the same method, known before any run.

Two arms are the same method if their other settings agree, and if their losses have the same gradients on any samples
that the study may produce: then they train the same policy. With one optimiser step per generated batch, for example,
all ratios are 1, and methods that only use the ratio in another way are one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.comparison.loss_gradients import LossGradients, ModelFreeTrainer, make_batch, with_fewer_samples
from lambda_grpo.comparison.study import Study
from lambda_grpo.errors import UserError
from lambda_grpo.objective import LambdaState, Objective, Surrogate
from lambda_grpo.objective.settings import has_setting
from lambda_grpo.options.objective import ObjectiveOptions
from lambda_grpo.options.trl import LambdaScheduleOptions, ReplacedOptions, SelectionOptions, TraceOptions
from lambda_grpo.training.recipe import Recipe
from lambda_grpo.trl import LambdaGRPOConfig

BATCHES = 6  # each with other rewards, lengths and ratios
LAMBDAS = 3  # values of λ beside the first one
# Relative. Log-probabilities are float64 here; advantages and weights are float32 as in a training, rounded a few times
# by 6e-8 each. The gradients of presets that are equal differ by less than 1e-6, those of others by more than 1e-2
# somewhere: test_equal_gradients_are_far_from_others.
TOLERANCE = 1e-5
# Settings that act through the objective alone, or through λ, which are compared in their place
OBJECTIVE_KEYS = {
    one.name
    for kind in (ObjectiveOptions, ReplacedOptions, LambdaScheduleOptions, TraceOptions, SelectionOptions)
    for one in fields(kind)
} | {"epsilon_high", "error_correction", "use_bias_correction_kl"}
OBJECTIVE_KEYS -= {"max_resample_times"}
RATIO_KEYS = {"delta", "off_policy_mask_threshold"}  # without effect where ratios are 1
UNUSED_KEYS = {"record_tokens", "resume_without_optimizer"}  # what is recorded of a run


def same_methods(study: Study) -> dict[str, str]:
    """Arms that are the same method as an earlier arm of the study, which is the value. The others aren't listed.

    An arm counts as a method of its own if its settings are refused, or if its loss can't be computed on made-up
    samples.
    """
    arms = [arm for name in study.arms if (arm := _read(study, name)) is not None]
    earlier: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        for alike in _classes(arms, _have_equal_settings):
            for same in _with_equal_gradients(alike, folder):
                earlier |= {arm.name: same[0].name for arm in same[1:]}
    return {name: earlier[name] for name in study.arms if name in earlier}


def describe(pairs: Mapping[str, str], study: Study) -> list[str]:
    """What `same_methods` found, in sentences for readers: one for each earlier arm and reason."""
    sentences: dict[tuple[str, str], list[str]] = {}
    for name, earlier in pairs.items():
        arm, other = _read(study, name), _read(study, earlier)
        assert arm is not None  # their settings weren't refused before
        assert other is not None
        sentences.setdefault((earlier, _reason(arm, other)), []).append(name)
    return [
        f"{', '.join(names)}: the same method as {earlier} here, since {reason}; run once"
        for (earlier, reason), names in sentences.items()
    ]


@dataclass(frozen=True)
class _Arm:
    """An arm with its settings, defaults included, at any of the study's tasks, learning rates and seeds."""

    name: str
    training: LambdaGRPOConfig
    settings: Mapping[str, Any]

    @cached_property
    def objective(self) -> Objective:
        return self.training.resolve_objective()

    @cached_property
    def lambda_state(self) -> LambdaState:
        return self.training.make_lambda_state(self.training.num_generations)

    @property
    def is_on_policy(self) -> bool:
        """Whether the policy of each loss is the one that sampled, TRL's condition."""
        generate_every = self.training.steps_per_generation * self.training.num_iterations
        return self.training.gradient_accumulation_steps % generate_every == 0

    @property
    def learns_lambda(self) -> bool:
        return self.objective.preference.learnable and self.training.lambda_lr > 0

    @property
    def learning_of_lambda(self) -> tuple[Any, ...] | None:
        """All that determines how λ moves, except its gradient; None if it doesn't."""
        if not self.learns_lambda:
            return None
        training, state = self.training, self.lambda_state
        schedule = (training.lambda_lr_scheduler_type, training.lambda_warmup_steps)
        return state.value, state.bounds, state.optimizer, training.lambda_lr, schedule

    @cached_property
    def surrogate(self) -> Surrogate:
        """The objective's, with each of its numbers."""
        surrogate: Any = self.objective.surrogate
        if has_setting(surrogate, "epsilon_high") and surrogate.epsilon_high is None:
            return replace(surrogate, epsilon_high=surrogate.epsilon)
        return surrogate

    @property
    def limits_of_ratios(self) -> list[Any]:
        """TRL's settings that act on ratios."""
        return [self.settings[key] for key in sorted(RATIO_KEYS)]

    def lambdas(self) -> list[Tensor]:
        """The values of λ at which gradients are compared: the first, and some that it may reach."""
        first = self.lambda_state.leaf(requires_grad=False)
        if not self.learns_lambda:
            return [first]
        low, high = self.lambda_state.bounds
        generator = torch.Generator().manual_seed(0)
        shares = torch.rand(LAMBDAS, *first.shape, dtype=torch.float64, generator=generator)
        return [first, *(low + (high - low) * shares)]


def _read(study: Study, name: str) -> _Arm | None:
    """An arm; None if its settings are refused, as its runs will say."""
    keys = study.recipe_keys(name, study.tasks[0], study.learning_rates[0], study.seeds[0])
    try:
        recipe = Recipe.parse({**keys, "output_dir": "unused"})
    except UserError:
        return None
    return _Arm(name, recipe.training, recipe.settings())


def _have_equal_settings(a: _Arm, b: _Arm) -> bool:
    """Whether two arms agree in all that their gradients wouldn't show."""
    others = a.settings.keys() - OBJECTIVE_KEYS - RATIO_KEYS - UNUSED_KEYS
    if any(a.settings[key] != b.settings[key] for key in others):
        return False
    if a.objective.rollouts != b.objective.rollouts or a.learning_of_lambda != b.learning_of_lambda:
        return False
    if a.is_on_policy:
        return True
    # A number such as a clip range acts on the ratios beyond it alone, and none may lie between two close numbers
    is_of_one_kind = type(a.surrogate) is type(b.surrogate)
    return a.limits_of_ratios == b.limits_of_ratios and (not is_of_one_kind or a.surrogate == b.surrogate)


def _with_equal_gradients(arms: list[_Arm], folder: str) -> list[list[_Arm]]:
    """Those of arms with equal settings whose losses have equal gradients on all batches, two or more in each class."""
    trainers: dict[str, ModelFreeTrainer] = {}
    settings = with_fewer_samples(arms[0].settings)
    classes = [arms]
    for seed in range(BATCHES):
        batch = make_batch(settings, seed, on_policy=arms[0].is_on_policy)
        found: dict[str, LossGradients] = {}
        for arm in (arm for one in classes for arm in one):
            try:
                if arm.name not in trainers:
                    trainers[arm.name] = ModelFreeTrainer(with_fewer_samples(arm.settings), folder)
                found[arm.name] = trainers[arm.name].gradients(batch, arm.lambdas())
            except Exception:  # an objective's own code may raise anything: its runs say what, on real samples
                continue
        classes = [part for one in classes for part in _split(one, found)]
    return classes


def _split(arms: Sequence[_Arm], found: Mapping[str, LossGradients]) -> list[list[_Arm]]:
    """Of the arms for which gradients were found, those that are equal."""

    def are_same(a: _Arm, b: _Arm) -> bool:
        return are_equal(found[a.name], found[b.name], with_lambda=a.learns_lambda)

    return _classes([arm for arm in arms if arm.name in found], are_same)


def are_equal(a: LossGradients, b: LossGradients, *, with_lambda: bool) -> bool:
    """Whether two losses have the same gradients, up to rounding: of each token, and in λ if it is trained."""
    # a sum of terms of both signs, such as the KL term's and the policy's, has the rounding of its terms
    is_close = _are_close(a.policy, b.policy, a.policy[a.policy != 0].abs().median() if a.policy.any() else 0.0)
    return is_close and (not with_lambda or _are_close(a.lambda_, b.lambda_, a.lambda_.abs().max()))


def _are_close(a: Tensor, b: Tensor, size: float | Tensor) -> bool:
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * float(size))


def _classes(arms: Sequence[_Arm], are_same: Callable[[_Arm, _Arm], bool]) -> list[list[_Arm]]:
    """The arms that are the same as the first of their class; only classes of two or more."""
    classes: list[list[_Arm]] = []
    for arm in arms:
        for one in classes:
            if are_same(one[0], arm):
                one.append(arm)
                break
        else:
            classes.append([arm])
    return [one for one in classes if len(one) > 1]


def _reason(arm: _Arm, other: _Arm) -> str:
    """Why two arms with equal gradients are the same method, as far as their settings show it."""
    a, b = arm.objective, other.objective
    has_other_ratios = arm.surrogate != other.surrogate or arm.limits_of_ratios != other.limits_of_ratios
    if not has_other_ratios and replace(a, name="", surrogate=b.surrogate) == replace(b, name=""):
        return "their settings say the same"
    training, normalizers = arm.training, {a.normalizer, b.normalizer}
    reasons = {
        "each batch serves one optimiser step (on policy), so that ratios are 1": has_other_ratios and arm.is_on_policy,
        "each batch is one micro-batch": len(normalizers) == 2
        and "micro_batch" in normalizers
        and training.steps_per_generation == 1,
        "each batch has one prompt": training.generation_batch_size == training.num_generations
        and (normalizers == {"group", "batch"} or {a.advantage_scale, b.advantage_scale} == {"group", "batch"}),
        "λ isn't trained (lambda_lr is 0)": a.preference != b.preference
        and (a.preference.learnable or b.preference.learnable)
        and not arm.learns_lambda,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    return " and ".join(found) or "their losses have the same gradients under this study's settings"
