"""From the `args` of `LambdaGRPOTrainer` to its configuration, and to the one that TRL gets."""

from __future__ import annotations

import copy
from dataclasses import MISSING, fields
from typing import Any

from trl import GRPOConfig
from trl.trainer.utils import get_config_model_id

from lambda_grpo.objective import get_objective
from lambda_grpo.objective.settings import has_setting
from lambda_grpo.trl.config import LambdaGRPOConfig
from lambda_grpo.trl.losses import TRLLoss
from lambda_grpo.trl.sampling_config import STOP_KEYS


def lambda_config(args: GRPOConfig | None, model: Any) -> LambdaGRPOConfig:
    """The trainer's configuration.

    Args:
        args: None for TRL's defaults and TRL's output directory, `{model}-GRPO`.
        model: a path or a model, for the name of that directory.

    Raises:
        TypeError: `args` is something else.
        ValueError: no objective has the name of its `loss_type`.
    """
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        return _of_plain(GRPOConfig(f"{name.split('/')[-1]}-GRPO"))
    if isinstance(args, LambdaGRPOConfig):
        return args
    if not isinstance(args, GRPOConfig):
        raise TypeError(f"args must be a LambdaGRPOConfig or a trl.GRPOConfig, got {type(args).__name__}")
    return _of_plain(args)


def _of_plain(plain: GRPOConfig) -> LambdaGRPOConfig:
    """A plain configuration's current values, with the objective that its `loss_type` names.

    TRL's `__post_init__` doesn't run again: it has already replaced some values, which a second run would refuse.
    """
    config = object.__new__(LambdaGRPOConfig)
    for one in fields(LambdaGRPOConfig):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        setattr(config, one.name, default)
    config.__dict__.update(vars(plain))
    # A plain configuration always has numbers for PPO's clip; TRL's other losses ignore them or read them differently.
    surrogate = get_objective(plain.loss_type).surrogate
    if not has_setting(surrogate, "epsilon"):
        cap = plain.epsilon if plain.epsilon_high is None else plain.epsilon_high
        config.epsilon, config.epsilon_high = None, cap if has_setting(surrogate, "cap") else None
    config.settle()
    return config


def config_for_trl(config: LambdaGRPOConfig, loss: TRLLoss) -> LambdaGRPOConfig:
    """A copy for TRL, with the settings of TRL's loss, and stop strings only where TRL passes them to vLLM."""
    trl_config = copy.copy(config)
    settings = {"loss_type": loss.loss_type, "importance_sampling_level": "token", "epsilon": 0.2, **loss.settings}
    for key, value in settings.items():
        setattr(trl_config, key, value)
    trl_config.stop_strings, trl_config.generation_kwargs = config.stops(), generation_kwargs(config)
    return trl_config


def restore(trl_config: LambdaGRPOConfig, config: LambdaGRPOConfig, given: GRPOConfig | None) -> None:
    """Put the user's values back into the configuration that TRL has read, since it is saved and reported."""
    for key in ("loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "generation_kwargs"):
        setattr(trl_config, key, getattr(config if given is None else given, key))
    trl_config.stop_strings = config.stop_strings


def generation_kwargs(config: LambdaGRPOConfig) -> dict[str, Any] | None:
    """TRL's `generation_kwargs`: stop strings are passed to vLLM; for `generate`, `StopStringEnds` applies them."""
    stops, given = config.stops(), config.generation_kwargs
    if not stops:
        return given
    rest = {key: value for key, value in (given or {}).items() if key not in STOP_KEYS}
    return {**rest, "stop": stops} if config.use_vllm else rest
