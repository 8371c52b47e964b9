"""The configurations around `LambdaGRPOTrainer`: what it is given as `args`, and what TRL is given in turn."""

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
    """The configuration that the trainer reads.

    Args:
        args: None for TRL's defaults and TRL's output directory, `{model}-GRPO`.
        model: a path or a model, for that name.

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
    """A plain configuration's values as they are now, with the objective that its `loss_type` names.

    TRL's `__post_init__` doesn't run again: it has replaced some values already, and a second run would refuse them.
    """
    config = object.__new__(LambdaGRPOConfig)
    for one in fields(LambdaGRPOConfig):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        setattr(config, one.name, default)
    config.__dict__.update(vars(plain))
    # A plain configuration always holds numbers for PPO's clip; losses of another kind read them in TRL's own way.
    surrogate = get_objective(plain.loss_type).surrogate
    if not has_setting(surrogate, "epsilon"):
        cap = plain.epsilon if plain.epsilon_high is None else plain.epsilon_high
        config.epsilon, config.epsilon_high = None, cap if has_setting(surrogate, "cap") else None
    config.settle()
    return config


def config_for_trl(config: LambdaGRPOConfig, loss: TRLLoss) -> LambdaGRPOConfig:
    """A copy for TRL, which reads its own loss and no stop strings there."""
    host = copy.copy(config)
    settings = {"loss_type": loss.loss_type, "importance_sampling_level": "token", "epsilon": 0.2, **loss.settings}
    for key, value in settings.items():
        setattr(host, key, value)
    host.stop_strings, host.generation_kwargs = config.stops(), generation_kwargs(config)
    return host


def restore(host: LambdaGRPOConfig, config: LambdaGRPOConfig, given: GRPOConfig | None) -> None:
    """Let a configuration that TRL has read say what was asked for: it is saved and reported."""
    for key in ("loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "generation_kwargs"):
        setattr(host, key, getattr(config if given is None else given, key))
    host.stop_strings = config.stop_strings


def generation_kwargs(config: LambdaGRPOConfig) -> dict[str, Any] | None:
    """What TRL is told of generation: vLLM takes the stop strings, `generate` takes them from this project."""
    stops, given = config.stops(), config.generation_kwargs
    if not stops:
        return given
    rest = {key: value for key, value in (given or {}).items() if key not in STOP_KEYS}
    return {**rest, "stop": stops} if config.use_vllm else rest
