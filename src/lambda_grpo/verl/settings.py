"""What `algorithm.lambda_grpo` says in verl's configuration, and which of verl's own settings it needs.

verl averages its loss over the tokens of a mini-batch, and weights fold into its advantages: an objective works where
that is exact. Everything else is refused with its reason, before anything has started.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.objective import PRESETS, CappedWeight, Clip, Objective, RolloutSpec
from lambda_grpo.objective.settings import ObjectiveSettings, has_setting
from lambda_grpo.options.option import option
from lambda_grpo.suggestions import did_you_mean
from lambda_grpo.verl.versions import TRAINER, breaks_verl

# verl's losses that are positively homogeneous in the advantage, token by token
FOLDING_LOSSES = ("vanilla", "gspo", "cispo", "gpg", "dppo_tv", "dppo_kl")
VERLS_CLIP = 0.2  # both sides of verl's default clip range


@dataclass
class VerlSettings(ObjectiveSettings):
    """The keys under `algorithm.lambda_grpo`; their names and defaults are those of `LambdaGRPOConfig`."""

    objective: str | None = option("lambda_grpo", "A preset of docs/objective.md, or module:NAME for your own.")

    @classmethod
    def of(cls, config: Any) -> VerlSettings:
        """Read and check verl's whole configuration.

        Args:
            config: what `main_ppo` was called with, an OmegaConf dictionary.

        Raises:
            UserError: a value is wrong, or the objective doesn't fold exactly into what verl is set to.
        """
        written = config.algorithm.get("lambda_grpo")
        known = [field.name for field in fields(cls)]
        if written is not None and not hasattr(written, "items"):
            raise UserError(f"algorithm.lambda_grpo is {written!r}: it takes the keys {', '.join(known)}")
        given = dict(written or {})
        if "drop_zero_variance" in given:
            raise UserError(
                "algorithm.lambda_grpo.drop_zero_variance isn't for verl, which divides its loss by the tokens of all "
                "rows of a mini-batch: set algorithm.filter_groups, which draws other prompts, or train in TRL"
            )
        for key in given:
            if key not in known:
                meant = did_you_mean(str(key), known)
                raise UserError(f"algorithm.lambda_grpo.{key} isn't known{meant}: use {', '.join(known)}")
        settings = cls(**given)
        try:
            objective = settings.resolve_objective()
            if settings.lambda_r is not None and not has_setting(objective.preference, "r"):
                raise ValueError(f"objective {objective.name!r} has no r: leave lambda_r out")
            settings.make_lambda_state(config.actor_rollout_ref.rollout.n)
        except (ValueError, TypeError) as error:
            raise UserError(f"algorithm.lambda_grpo: {error}") from error
        check_objective(objective)
        check_config(config, objective)
        return settings


def is_asked_for(config: Any) -> bool:
    """Whether a verl configuration names this package's trainer or settings. It may lack any section."""
    from omegaconf import OmegaConf

    mode, settings = (OmegaConf.select(config, key) for key in ("trainer.v1.trainer_mode", "algorithm.lambda_grpo"))
    return mode == TRAINER or settings is not None


def check_objective(objective: Objective) -> None:
    """Raise UserError on an objective that doesn't fold into verl's loss, saying why."""
    reason = _why_not(objective)
    if reason:
        names = ", ".join(name for name, preset in PRESETS.items() if not _why_not(preset))
        raise UserError(f"objective {objective.name!r} doesn't work on verl: {reason}. Those that do: {names}")


def _why_not(objective: Objective) -> str | None:
    rollouts, surrogate = objective.rollouts, objective.surrogate
    if rollouts.dynamic_sampling or rollouts.overlong_buffer:
        return (
            "its dynamic sampling and overlong penalty are verl's own settings (algorithm.filter_groups, the DAPO "
            "reward manager, clip_ratio_high): set them with objective dapo"
        )
    if rollouts != RolloutSpec():
        return "it selects or corrects samples before the loss, which verl's loop doesn't: train with it in TRL"
    if objective.normalizer == "micro_batch":
        return "it divides by each micro-batch's tokens, verl by the mini-batch's: use dapo"
    if not isinstance(surrogate, Clip | CappedWeight):
        return (
            f"its surrogate, {type(surrogate).__name__}, isn't one of verl's losses that a weight folds into exactly "
            f"({', '.join(FOLDING_LOSSES)}; sapo and geo_mean bring an average of their own)"
        )
    if objective.advantage_min is not None:
        return "it raises low advantages, which verl's estimator doesn't"
    if "entropies" in objective.preference.needs:
        return "it weighs by token entropies"
    if objective.preference.learnable and objective.preference.per_token:
        return "it learns weights of single tokens, and λ's gradient is made of one slope a response"
    return None


def check_config(config: Any, objective: Objective) -> None:
    """Raise UserError where verl is set to something that the objective doesn't fold into, saying what to set."""
    actor, algorithm, rollout = config.actor_rollout_ref.actor, config.algorithm, config.actor_rollout_ref.rollout
    mode, named = config.trainer.v1.trainer_mode, f"objective {objective.name!r}"
    loss_mode = actor.policy_loss.get("loss_mode", "vanilla")
    if not config.trainer.use_v1:
        raise UserError("algorithm.lambda_grpo needs verl's V1 trainer: set trainer.use_v1=True")
    if mode != TRAINER:
        because = "" if mode == "sync" else " (of verl's loops only the synchronous one is supported)"
        raise UserError(
            f"algorithm.lambda_grpo is set, but trainer.v1.trainer_mode is {mode!r}: set "
            f"trainer.v1.trainer_mode={TRAINER}{because}"
        )
    if actor.loss_agg_mode != "token-mean":
        raise UserError(
            f"actor_rollout_ref.actor.loss_agg_mode is {actor.loss_agg_mode!r}: an objective brings its own average, "
            "which folds into the token mean; set actor_rollout_ref.actor.loss_agg_mode=token-mean"
        )
    if loss_mode not in FOLDING_LOSSES:
        raise UserError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode is {loss_mode!r}, which isn't one of those that weights "
            f"fold into exactly: use {', '.join(FOLDING_LOSSES)}"
        )
    if objective.preference.per_token and loss_mode == "gspo":
        raise UserError(
            f"{named} tells a response's tokens apart, and the loss gspo has one ratio for all of them: set "
            "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"
        )
    if algorithm.adv_estimator != "grpo":
        raise UserError(
            f"algorithm.adv_estimator is {algorithm.adv_estimator!r}: the advantages of {named} are relative to the "
            "group; set algorithm.adv_estimator=grpo"
        )
    if objective.advantage_scale != "group" and algorithm.get("norm_adv_by_std_in_grpo", True):
        raise UserError(
            f"{named} doesn't divide advantages by the group's standard deviation: set "
            "algorithm.norm_adv_by_std_in_grpo=False"
        )
    if objective.advantage_scale == "batch" and algorithm.use_kl_in_reward:
        raise UserError(f"{named} divides by the rewards' standard deviation: set algorithm.use_kl_in_reward=False")
    if actor.use_kl_loss and (objective.normalizer != "batch" or objective.kl_weighted):
        raise UserError(
            f"{named} with actor_rollout_ref.actor.use_kl_loss=True: verl averages the KL term over the batch's "
            "tokens, this objective doesn't; use algorithm.use_kl_in_reward, or an objective with a token mean"
        )
    if "advantages" in objective.preference.needs and (algorithm.get("rollout_correction") or {}).get("rollout_rs"):
        raise UserError(
            f"{named} weighs by the sign of advantages, which algorithm.rollout_correction.rollout_rs takes from "
            "responses that it rejects: set it to null"
        )
    if rollout.n < 2:
        raise UserError(
            f"actor_rollout_ref.rollout.n is {rollout.n}: completions are compared in groups, set it to 2 or more"
        )
    if (config.get("distillation") or {}).get("enabled", False):
        raise UserError("distillation.enabled=True brings a loss of its own, which the weights don't reach")
    _check_surrogate(actor, objective, loss_mode)


def _check_surrogate(actor: Any, objective: Objective, loss_mode: str) -> None:
    """Where the objective names its surrogate: verl's loss is that one, with a clip range that was chosen for it."""
    match objective.surrogate:
        case Clip("sequence", low, high):
            needed, clips = "gspo", (low, low if high is None else high)
        case CappedWeight(cap):
            needed, clips = "cispo", (1.0, cap - 1)  # verl's has a lower bound, 1 − clip_ratio_low, too
        case _:
            return
    sides = (actor.clip_ratio_low, actor.clip_ratio_high)
    is_verls = all((actor.clip_ratio if side is None else side) == VERLS_CLIP for side in sides)
    if loss_mode != needed or is_verls:
        raise UserError(
            f"objective {objective.name!r} has a loss and a clip range of its own: set under actor_rollout_ref.actor "
            f"policy_loss.loss_mode={needed} clip_ratio_low={clips[0]:g} clip_ratio_high={clips[1]:g}"
        )


def check_environment() -> None:
    """Raise UserError where a trl is installed that breaks verl."""
    try:
        trl = version("trl")
    except PackageNotFoundError:
        return
    if breaks_verl(trl):
        raise UserError(
            f"trl {trl} is installed beside verl, whose workers it breaks (verl 0.9.1 imports a class that trl 1.13 "
            "and later don't have): pip uninstall trl, or give each an environment of its own"
        )
