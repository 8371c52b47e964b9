"""What a run needs, estimated from its recipe before anything is loaded: memory, and space on the disk.

Memory: a number d of bytes for each parameter's weight (4 in float32) makes

    0.4 GB for Python and its libraries
    + d × parameters, twice: the model, and the copy that the fast sampler reads (the same size where TRL samples)
    + 3 × d × trained parameters: gradients, and AdamW's two moments. With LoRA only the adapter is trained
    + d × parameters for the reference model, if beta is above 0 and all parameters are trained
    + the larger one of
      activations:  d × tokens of a micro-batch × (layers × (12 × hidden + 4 × intermediate) + 2 × vocabulary);
                    in the packed pass d × tokens × layers × (6 × hidden + 2 × intermediate);
                    with gradient checkpointing one layer counts in full, the others with their input alone
      the sampler's cache: d × tokens generated together × layers × 2 × width of the keys

where a sample has max_completion_length tokens, and max_prompt_length more if that is set. docs/comparison.md compares
this with measurements.

Disk: a checkpoint has d bytes for each saved weight and 2 × d for each trained parameter, AdamW's moments. With LoRA
only the adapter is saved. Records and tokenizers are left out, so this is the least that is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import get_peft_config

from lambda_grpo.disk import NOT_ENOUGH, free_bytes
from lambda_grpo.errors import UserError
from lambda_grpo.fast.architectures import MODEL_TYPES
from lambda_grpo.formatting import byte_size
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.models.size import ModelSize, model_size
from lambda_grpo.training.recipe import Recipe

LIBRARIES = 400_000_000  # bytes of a process before it loads a model
HALF_TYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Footprint:
    """What one run needs.

    Attributes:
        parameters: of the model.
        memory: bytes, of the accelerator if it trains on one.
        checkpoint: bytes of a checkpoint.
        model: bytes of the final model.
        kept: checkpoints that are left at its end; the smallest possible number where the steps depend on the data.
        most: checkpoints that exist at the same time: a new one is written before the oldest is removed.
    """

    parameters: int
    memory: int
    checkpoint: int
    model: int
    kept: int
    most: int

    @property
    def disk_at_end(self) -> int:
        """Bytes that a finished run occupies."""
        return self.kept * self.checkpoint + self.model

    @property
    def disk(self) -> int:
        """Most bytes that a run occupies at any time."""
        return max(self.most * self.checkpoint, self.disk_at_end)


def footprint(recipe: Recipe) -> Footprint | None:
    """What a run with this recipe needs; None if the model's size isn't known.

    Raises:
        UserError: there is no such model.
    """
    path, adapter = resolve_model(recipe.model.model_name_or_path or BUILTIN), get_peft_config(recipe.model)
    size = model_size(path, recipe.model.model_revision, adapter)
    if size is None:
        return None
    config, width = recipe.training, 2 if recipe.model.dtype in HALF_TYPES else 4
    saved = size.trained if adapter is not None else size.parameters
    optimizer = 0 if config.save_only_model else _moments(config) * size.trained
    kept, most = _checkpoints(config)
    return Footprint(
        size.parameters, _memory(size, recipe, width), width * (saved + optimizer), width * saved, kept, most
    )


def check_space(recipe: Recipe, occupied: int = 0) -> None:
    """Check that a run's checkpoints and its model fit on the disk.

    Args:
        occupied: bytes that the run has on the disk already.

    Raises:
        UserError: they don't.
    """
    needed, folder = footprint(recipe), Path(recipe.training.output_dir)
    if needed is None or needed.disk - occupied <= free_bytes(folder):
        return
    count = "a checkpoint" if needed.most == 1 else f"{needed.most} checkpoints"
    limit = recipe.training.save_total_limit
    raise UserError(
        f"{NOT_ENOUGH}{folder} needs at least {byte_size(needed.disk)} for the model and {count} of "
        f"{byte_size(needed.checkpoint)}, and {byte_size(free_bytes(folder))} are free: free some, lower "
        f"save_total_limit ({limit or 'none'} now), set save_strategy to 'no', or choose another output_dir"
    )


def _moments(config: Any) -> int:
    """How many values per parameter the optimiser saves, as far as it is known: two of AdamW."""
    return 2 if _word(config.optim).startswith("adamw_torch") else 0


def _memory(size: ModelSize, recipe: Recipe, width: int) -> int:
    config = recipe.training
    has_reference = config.beta and not recipe.model.use_peft
    values = (2 + bool(has_reference)) * size.parameters + 3 * size.trained
    length = config.max_completion_length + (config.max_prompt_length or 0)
    rows = config.per_device_train_batch_size
    activations = rows * length * _activations(size, recipe)
    generated = max(rows * (config.steps_per_generation or 1), config.per_device_eval_batch_size)
    cache = generated * length * size.layers * 2 * size.key_values
    return LIBRARIES + width * (values + max(activations, cache))


def _activations(size: ModelSize, recipe: Recipe) -> int:
    """Values per token that a training pass keeps for its gradients."""
    config = recipe.training
    is_packed = config.packing and config.use_cpu and size.model_type in MODEL_TYPES
    layer = 6 * size.hidden + 2 * size.intermediate if is_packed else 12 * size.hidden + 4 * size.intermediate
    layers = size.layers * size.hidden + layer if config.gradient_checkpointing else size.layers * layer
    return layers if is_packed else layers + 2 * size.vocabulary


def _checkpoints(config: Any) -> tuple[int, int]:
    """How many checkpoints are left at the end, and how many exist at the same time."""
    strategy = _word(config.save_strategy)
    if strategy == "no":
        return 0, 0
    count = 1
    if strategy == "steps" and config.max_steps > 0:
        every = config.save_steps if config.save_steps >= 1 else config.max_steps * config.save_steps
        count = math.ceil(config.max_steps / every)
    elif strategy == "epoch" and config.max_steps <= 0:
        count = math.ceil(config.num_train_epochs)
    limit = config.save_total_limit
    if not limit:
        return count, count
    limit = max(limit, 2) if config.load_best_model_at_end else limit  # the best one and the last one
    return min(count, limit), min(count, limit + 1)


def _word(value: Any) -> str:
    """A setting that transformers may have made an enumeration."""
    return str(getattr(value, "value", value))
