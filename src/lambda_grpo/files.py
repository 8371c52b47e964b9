"""Files that are written at once or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file at once or not at all: a kill never leaves half of it. Several processes may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    return partial.replace(path)


def write_text(path: Path, content: str) -> Path:
    """The same of text."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """The same of what JSON can hold; anything else as its text."""
    return write_text(path, json.dumps(content, indent=2, default=str) + "\n")
