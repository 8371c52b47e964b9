"""The private methods of TRL that the trainer overrides, and a check that the installed TRL has them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

# TRL's methods that are overridden, wrapped or called, with their parameters; None where all are passed on as they are.
_SINGLE_TURN = ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"]
HOOKS: dict[str, list[str] | None] = {
    "_generate": ["self", "prompts"],
    "_generate_single_turn": _SINGLE_TURN,
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": None,
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_load_best_model": ["self"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
    "push_to_hub": None,
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "_save": ["self", "output_dir", "state_dict"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
}


def check_hooks(trainer_class: type) -> None:
    """Raise ImportError if a method that `LambdaGRPOTrainer` builds on is missing or has other parameters."""
    for name, parameters in HOOKS.items():
        method = getattr(trainer_class, name, None)
        if method is None or parameters not in (None, list(inspect.signature(method).parameters)):
            raise ImportError(
                f"lambda-grpo builds on {trainer_class.__name__}.{name}({', '.join(parameters or '…')}), which trl "
                f"{version('trl')} doesn't have: install trl 1.16.0, or a lambda-grpo that knows this trl"
            )


@contextmanager
def replaced(trainer: Any, **attributes: Any) -> Iterator[None]:
    """Replace attributes of a trainer inside the context, while TRL reads them."""
    own = trainer.__dict__
    before = {name: own[name] for name in attributes.keys() & own.keys()}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            own.pop(name, None)
        own.update(before)
