"""Provenance: versions, the git commit, and digests of settings."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """The installed versions and this package's git commit."""
    versions: dict[str, str | None] = {}
    for package in (
        "lambda-grpo",
        "torch",
        "trl",
        "transformers",
        "accelerate",
        "peft",
        "reasoning-gym",
        "math-verify",
    ):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {"versions": versions, "git_commit": _git_commit()}


def digest(content: Any) -> str:
    """A short hash of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" if it has changes; None for an installed package."""
    if shutil.which("git") is None:
        return None

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    # An installed copy may be inside another project's checkout, where git doesn't track this file.
    is_tracked = git("ls-files", Path(__file__).name) != ""
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if is_tracked else None
