"""λ in a checkpoint: lambda_state.json, the same file in both engines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lambda_grpo.files import write_json
from lambda_grpo.objective.lambda_state import LambdaState

LAMBDA_STATE_FILE = "lambda_state.json"
NO_LAMBDA = "wasn't written with a learned λ, or that part of it lies elsewhere"


def save_lambda(checkpoint: str | Path, objective: str, state: LambdaState) -> None:
    """Write λ and its optimiser's state into a checkpoint."""
    write_json(Path(checkpoint, LAMBDA_STATE_FILE), {"objective": objective, **state.state_dict()})


def load_lambda(checkpoint: str | Path, objective: str, state: LambdaState) -> None:
    """Restore λ from a checkpoint.

    Raises:
        FileNotFoundError: it has no λ.
        ValueError: it was trained with another objective, optimiser of λ or number of λ.
    """
    saved = read_state(checkpoint, LAMBDA_STATE_FILE, NO_LAMBDA)
    if saved["objective"] != objective:
        raise ValueError(
            f"{checkpoint} was trained with objective {saved['objective']!r}, not {objective!r}: "
            "start from it as a model instead of resuming from it"
        )
    state.load_state_dict(saved)


def read_state(checkpoint: str | Path, name: str, why_missing: str) -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        FileNotFoundError: it isn't there; the message gives the likely reason.
        json.JSONDecodeError: it is damaged.
    """
    path = os.path.join(checkpoint, name)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} is missing: this checkpoint {why_missing}. Start from it as a model instead of resuming from it"
        )
    with open(path) as file:
        return json.load(file)
