"""What a checkpoint holds beside the weights, so that a run goes on as though it had never stopped."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

OPTIMIZER, SCHEDULE, RANDOM_STATE = "optimizer.pt", "scheduler.pt", "rng_state.pth"

# How the engines name what stands for each of them. DeepSpeed keeps optimiser and schedule in a folder of its own.
PATTERNS = {
    OPTIMIZER: ("optimizer*", "rank*-of-*-optimizer.pt", "global_step*"),
    SCHEDULE: ("scheduler.pt", "global_step*"),
    RANDOM_STATE: ("rng_state*.pth",),
}


def missing_state(checkpoint: Path) -> list[str]:
    """The parts that a checkpoint lacks of what training goes on from: all three with `save_only_model`."""
    return [part for part, patterns in PATTERNS.items() if not any(any(checkpoint.glob(one)) for one in patterns)]


def is_complete(checkpoint: Path) -> bool:
    """Whether a kill or a full disk left the checkpoint whole. The Trainer writes trainer_state.json last."""
    from safetensors import SafetensorError, safe_open

    if not (checkpoint / "trainer_state.json").exists():
        return False
    for path in checkpoint.iterdir():
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                safe_open(path, framework="pt").__enter__()  # checks the header against the file's size
        except (json.JSONDecodeError, SafetensorError):
            return False
        if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):  # what torch.save writes
            return False
    return True
