"""Rank and world size, from the environment that torchrun and accelerate set for each process."""

import os


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process of rank 0, the only one that prints and writes files."""
    return int(os.environ.get("RANK", "0")) == 0
