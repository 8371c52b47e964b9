"""Atomic writes: a reader, or a program that is killed, never finds half a file. And the user's cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file atomically. Several processes may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        return partial.replace(path)
    except OSError:  # such as a full disk
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> Path:
    """Write a text file atomically, as UTF-8."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file atomically. Values that JSON lacks are written as `str` gives them."""
    return write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def cache_folder() -> Path:
    """The folder for what can be made again: XDG_CACHE_HOME/lambda-grpo, by default ~/.cache/lambda-grpo.

    Raises:
        RuntimeError: the user has no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lambda-grpo"
