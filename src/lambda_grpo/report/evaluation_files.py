"""Reads the result files of `lambda-grpo eval`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError

# what is read of a line of TASK.samples.jsonl, and its types
SAMPLE: dict[str, type | tuple[type, ...]] = {
    "id": object, "prompt": str, "completion": str, "answer": (str, type(None)), "extracted": (str, type(None)),
    "score": (int, float), "correct": bool, "timed_out": bool, "length": int, "ended": bool,
}  # fmt: skip


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results at a path, finished or not, each with its `file`.

    Args:
        path: a result file, a directory of them, or a run directory.

    Raises:
        UserError: there is no such path, or a file that is no result.
    """
    if not path.exists():
        raise UserError(f"no result {path}")
    directory = path / "eval" if (path / "eval").is_dir() else path  # of a run
    files = sorted(directory.glob("*.json")) if path.is_dir() else [path]
    results = []
    for file in files:
        try:
            found = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is no result of lambda-grpo eval: {error}") from error
        if isinstance(found, dict) and "finished" in found:
            results.append({**found, "file": os.path.relpath(file)})
        elif not path.is_dir():
            raise UserError(f"{file} is no finished result of lambda-grpo eval")
    return results


def read_samples(result: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The samples of each problem of a finished result, by the problem's index.

    Raises:
        UserError: the file of the samples is missing, can't be read, or isn't this result's.
    """
    path = Path(result["file"]).with_suffix(".samples.jsonl")
    n, count = result["n"], result["samples"]
    found: dict[int, list[dict[str, Any]]] = {problem: [] for problem in range(n)}
    try:
        with open(path) as file:
            for line in file:
                whole = json.loads(line)
                found[whole["problem"]].append({name: _checked(whole[name], kind) for name, kind in SAMPLE.items()})
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: it belongs to {result['file']}, so keep them together") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} can't be read ({type(error).__name__}: {error}): evaluate again") from error
    if any(len(samples) != count for samples in found.values()):
        raise UserError(
            f"{path} doesn't have {count} of each of {n} problems, as {result['file']} says: evaluate again"
        )
    return found


def _checked(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"unexpected {str(value)[:40]!r}")
    return value
