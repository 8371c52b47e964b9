"""What is known of each finished run of a study, in a file beside its directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from lambda_grpo.comparison.planned_runs import run_path
from lambda_grpo.errors import UserError
from lambda_grpo.files import write_json
from lambda_grpo.runs.study_record import RunFigures, StudyRecord


class RunFile(TypedDict):
    """A finished run.

    recipe: the keys that it was made with. problems: the digest of its problems. target_accuracy: of tokens_to_target.
    """

    recipe: dict[str, Any]
    problems: str
    target_accuracy: float
    figures: RunFigures


def read_run_file(path: Path) -> RunFile:
    """Read the file of a finished run.

    Raises:
        UserError: it isn't one.
    """
    try:
        found: RunFile = json.loads(path.read_text())
        if found.keys() != RunFile.__annotations__.keys():
            raise ValueError("it isn't the file of a run")
    except ValueError as error:
        raise UserError(f"{path} can't be read ({error}): remove it to make its run again") from error
    return found


def restore_run_files(directory: Path) -> None:
    """Write the files of finished runs that only results.json has, as in a copy of a study without its runs.

    Raises:
        UserError: results.json can't be read, or an earlier version wrote it.
    """
    file = directory / "results.json"
    if not file.is_file():
        return
    try:
        record: StudyRecord = json.loads(file.read_text())
        study, problems = record["study"], record["problems"]
        for run in record["runs"]:
            keys = (run["objective"], run["task"], run["learning_rate"], run["seed"])
            path = run_path(directory, *keys)
            path = path.with_name(f"{path.name}.json")
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, _run_file(run, study, problems))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} can't be read ({type(error).__name__}: {error}); an earlier version may have written it: choose "
            "another --output_dir"
        ) from error


def _run_file(run: Mapping[str, Any], study: Mapping[str, Any], problems: Mapping[str, str]) -> RunFile:
    arm, task, rate, seed = (run[name] for name in ("objective", "task", "learning_rate", "seed"))
    own = {"task": task, "learning_rate": rate, "seed": seed}
    figures: Any = {name: run[name] for name in RunFigures.__annotations__ if name in run}
    return {
        "recipe": {**study["recipe"], **study["objectives"][arm], **own},
        "problems": problems[task],
        "target_accuracy": study["target_accuracy"],
        "figures": figures,
    }
