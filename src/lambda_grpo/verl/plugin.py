"""The entry point of verl's plug-in group: registers the trainer, and checks a configuration before Ray starts.

    python3 -m verl.trainer.main_ppo trainer.v1.trainer_mode=lambda_grpo +algorithm.lambda_grpo.objective=lambda_grpo …

verl imports this module with `import verl`, in the driver and in every worker. A verl run that doesn't ask for it is
as without it.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.verl.settings import VerlSettings, check_environment, is_asked_for
from lambda_grpo.verl.versions import TRAINER, VERL

PROGRAM = "verl.trainer.main_ppo"
REGISTRY = "verl.trainer.ppo.v1.trainer_base"

logger = logging.getLogger(__name__)


def install() -> None:
    """Add the check to verl, and the trainer once verl imports its own. Raises ImportError for another version."""
    if version("verl") != VERL:
        raise ImportError(f"lambda-grpo builds on verl {VERL}, this is {version('verl')}: pip install 'verl=={VERL}'")
    import verl.utils.config
    import wrapt

    # verl 0.9.1 has no hook for a plug-in between reading the configuration and starting Ray. `main_ppo` imports this
    # function after plug-ins are loaded, and calls it there.
    verl.utils.config.validate_config = _checked_first(verl.utils.config.validate_config)
    # verl 0.9.1 loads plug-ins in every process, and its trainer in one of them. Importing the trainer imports all of
    # its engines, which samplers and reward workers don't need.
    wrapt.register_post_import_hook(_register, REGISTRY)


def _register(registry: ModuleType) -> None:
    try:
        from lambda_grpo.verl.trainer import LambdaGRPOVerlTrainer

        registry.register_trainer(TRAINER)(LambdaGRPOVerlTrainer)
    except Exception as error:  # a run without this plug-in, which imports verl's trainer, must not fail
        _say_why(error)


def _checked_first(validate_config: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(validate_config)
    def checked(config: Any, *args: Any, **kwargs: Any) -> None:
        if is_asked_for(config):
            try:
                _check_program(sys._getframe(1))
                check_environment()
                VerlSettings.of(config)
            except UserError as error:
                import ray

                if ray.is_initialized():  # an exit would end some actor without a message
                    raise
                print(f"lambda-grpo: error: {error}", file=sys.stderr)
                raise SystemExit(2) from error
        validate_config(config, *args, **kwargs)

    return checked


def _check_program(caller: FrameType) -> None:
    """Refuse verl's programs that have the same configuration but another training loop, which would ignore λ."""
    spec, file = caller.f_globals.get("__spec__"), str(caller.f_globals.get("__file__"))
    program = spec.name if spec else Path(file).with_suffix("").as_posix()  # no spec: it was started by its path
    if not program.replace("/", ".").endswith(PROGRAM):
        raise UserError(f"algorithm.lambda_grpo is for {PROGRAM}, and {program} has a loop of its own: start {PROGRAM}")


def _say_why(error: Exception) -> None:
    # verl 0.9.1 itself would log it at DEBUG, which nobody sees
    logger.warning("lambda-grpo isn't registered with verl: %s: %s", type(error).__name__, error)


try:
    install()
except Exception as error:
    _say_why(error)
    raise
