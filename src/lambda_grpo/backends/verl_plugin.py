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
from typing import Any

from lambda_grpo.backends.verl_settings import TRAINER, VerlSettings, check_environment, is_asked_for
from lambda_grpo.errors import UserError

VERL = "0.9.1"  # whose V1 loop the trainer builds on


def register() -> None:
    """Register the trainer with verl, and the check. Raises ImportError for another verl than 0.9.1."""
    if version("verl") != VERL:
        raise ImportError(f"lambda-grpo builds on verl {VERL}, this is {version('verl')}: pip install 'verl=={VERL}'")
    import verl.utils.config
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, register_trainer

    from lambda_grpo.backends.verl_trainer import LambdaGRPOVerlTrainer

    if TRAINER in TRAINER_REGISTRY:
        return
    register_trainer(TRAINER)(LambdaGRPOVerlTrainer)
    # verl 0.9.1 gives a plug-in no word between reading the configuration and starting Ray. `main_ppo` takes this
    # function from its module after plug-ins are loaded, and calls it there.
    verl.utils.config.validate_config = _checked_first(verl.utils.config.validate_config)


def _checked_first(validate_config: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(validate_config)
    def checked(config: Any, *args: Any, **kwargs: Any) -> None:
        if is_asked_for(config):
            try:
                check_environment()
                VerlSettings.of(config)
            except UserError as error:
                print(f"lambda-grpo: error: {error}", file=sys.stderr)
                raise SystemExit(2) from error
        validate_config(config, *args, **kwargs)

    return checked


try:
    register()
except Exception as error:
    # verl 0.9.1 logs a plug-in that failed at DEBUG, which nobody sees
    logging.getLogger(__name__).warning("lambda-grpo isn't registered with verl: %s: %s", type(error).__name__, error)
    raise
