"""The private methods of TRL that the trainer overrides, and a check that they are where they were."""

from __future__ import annotations

import inspect
from importlib.metadata import version

# TRL's methods that are overridden or wrapped, with their parameters; None where all of them are passed on as they are.
HOOKS: dict[str, list[str] | None] = {
    "_generate": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": None,
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_save": ["self", "output_dir", "state_dict"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
}


def check_hooks(trainer_class: type) -> None:
    """Raise ImportError if a method that `LambdaGRPOTrainer` overrides isn't where it was."""
    for name, parameters in HOOKS.items():
        method = getattr(trainer_class, name, None)
        if method is None or parameters not in (None, list(inspect.signature(method).parameters)):
            raise ImportError(
                f"lambda-grpo overrides {trainer_class.__name__}.{name}({', '.join(parameters or '…')}), which trl "
                f"{version('trl')} doesn't have: install trl 1.16.0, or a lambda-grpo that knows this trl"
            )
