"""Saving λ and the model card with a model's weights, and the folder that is pushed to the hub."""

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
    """Write the model card and, if the objective has one, λ into a model's folder."""
    write_card(Path(folder, CARD_FILE), card)
    if lambda_state is not None:
        save_lambda(folder, objective, lambda_state)


@contextmanager
def hub_folder(args: Any) -> Iterator[Path]:
    """A separate folder for the files that are pushed.

    The Trainer's methods upload the whole output directory, whose samples and metrics shouldn't be published.

    Args:
        args: the configuration; its `output_dir` is this folder inside the context.
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
    """Copy the files of `save_beside`: the Trainer only copies the files that it knows."""
    for name in (CARD_FILE, LAMBDA_STATE_FILE):
        if Path(checkpoint, name).exists():
            shutil.copy(Path(checkpoint, name), folder / name)
