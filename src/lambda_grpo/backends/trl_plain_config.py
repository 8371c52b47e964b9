"""What `LambdaGRPOTrainer` is given as `args`, where that isn't a `LambdaGRPOConfig`: nothing, or TRL's own."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from trl import GRPOConfig
from trl.trainer.utils import get_config_model_id

from lambda_grpo.backends.trl_config import LambdaGRPOConfig
from lambda_grpo.objective import get_objective
from lambda_grpo.objective.surrogate import CappedWeight, GammaWeight, SoftGate


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
    if isinstance(surrogate, CappedWeight):
        config.epsilon_high = plain.epsilon if plain.epsilon_high is None else plain.epsilon_high
        config.epsilon = None
    elif isinstance(surrogate, SoftGate | GammaWeight):
        config.epsilon = config.epsilon_high = None
    config.settle()
    return config
