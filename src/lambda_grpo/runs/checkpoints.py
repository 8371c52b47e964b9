"""Whether a checkpoint is complete, and which parts of the training state it lacks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

OPTIMIZER, SCHEDULE, RANDOM_STATE = "optimizer.pt", "scheduler.pt", "rng_state.pth"

# The file names of each part. DeepSpeed saves optimizer and schedule in a folder of its own.
PATTERNS = {
    OPTIMIZER: ("optimizer*", "rank*-of-*-optimizer.pt", "global_step*"),
    SCHEDULE: ("scheduler.pt", "global_step*"),
    RANDOM_STATE: ("rng_state*.pth",),
}


def missing_state(checkpoint: Path) -> list[str]:
    """The parts of the training state that a checkpoint lacks: all three with `save_only_model`."""
    return [part for part, patterns in PATTERNS.items() if not any(any(checkpoint.glob(one)) for one in patterns)]


def is_complete(checkpoint: Path) -> bool:
    """Whether all files were written in full: a kill or a full disk may have cut one short.

    The Trainer writes trainer_state.json last.
    """
    return (checkpoint / "trainer_state.json").exists() and all(map(is_whole, checkpoint.iterdir()))


def is_whole(path: Path) -> bool:
    """Whether a file of a checkpoint or a model was written in full, as far as its format shows."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            safe_open(path, framework="pt").__enter__()  # compares the header with the file's size
    except (ValueError, SafetensorError):  # ValueError: JSON or UTF-8 that was cut short
        return False
    return path.suffix not in (".pt", ".pth") or zipfile.is_zipfile(path)  # the format of torch.save
