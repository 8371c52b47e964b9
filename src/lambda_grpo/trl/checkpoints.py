"""What is saved with a model beside its weights, λ and the model card, and what of the run is pushed to the hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE, save_lambda
from lambda_grpo.objective.lambda_state import LambdaState
from lambda_grpo.runs.model_card import CARD_FILE, CardFacts, write_card

HUB_FOLDER = "hub"


def save_beside(folder: str | Path, card: CardFacts, objective: str, lambda_state: LambdaState | None) -> None:
    """Write the model card and, where one is learned, λ into a model's folder."""
    write_card(Path(folder, CARD_FILE), card)
    if lambda_state is not None:
        save_lambda(folder, objective, lambda_state)


@contextmanager
def hub_folder(args: Any) -> Iterator[Path]:
    """Let what is pushed lie in a folder of its own.

    The Trainer's methods upload all of the output directory, whose samples and metrics aren't for the hub.

    Args:
        args: the configuration, whose `output_dir` is that folder meanwhile.
    """
    directory = args.output_dir
    folder = Path(directory, HUB_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    args.output_dir = str(folder)  # where the Trainer's two methods look
    try:
        yield folder
    finally:
        args.output_dir = directory


def copy_beside(checkpoint: str | Path, folder: Path) -> None:
    """Copy what `save_beside` wrote: the Trainer copies the files that it knows."""
    for name in (CARD_FILE, LAMBDA_STATE_FILE):
        if Path(checkpoint, name).exists():
            shutil.copy(Path(checkpoint, name), folder / name)
