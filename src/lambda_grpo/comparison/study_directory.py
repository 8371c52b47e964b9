"""Checks of a study's directory: it must be empty, or its runs must have the recipes of the study."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lambda_grpo.comparison.planned_runs import existing_runs
from lambda_grpo.comparison.run_results import read_run_file
from lambda_grpo.comparison.study import RECORD_KEYS, STORAGE_KEYS, Study, file_name
from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.recipe import Recipe

MAX_KEYS = 3  # differing keys that a message names


@contextmanager
def exclusive_lock(directory: Path) -> Iterator[None]:
    """Lock the directory against other processes; the lock is released when this one ends, also by a kill."""
    lock = FileLock(directory / "study.lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"another process runs a study in {directory}: wait for it, or choose another --output_dir"
        ) from error
    with held:
        yield


def check_directory(study: Study, directory: Path, digests: Mapping[str, str]) -> dict[str, Any] | None:
    """The study in the directory, from its study.json; None if there is none yet, or only its results.

    Args:
        digests: the digest of each task's problems.

    Raises:
        UserError: the directory holds other files, or a run of this study with another recipe or other problems.
    """
    file, before = directory / "study.json", None
    if file.exists():
        try:
            before = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} can't be read ({error}): choose another --output_dir") from error
    elif not (directory / "results.json").is_file():
        _check_empty(directory)
        return None
    existing = existing_runs(directory)
    if existing and before is not None and before.get("endpoint") != study.endpoint:
        raise UserError(
            f"{directory} holds another study: its endpoint, chosen before its runs, is {before.get('endpoint')}, not "
            f"{study.endpoint}. Set it back, or choose another --output_dir"
        )
    arms = {file_name(arm): arm for arm in study.arms}
    tasks = {file_name(task): task for task in study.tasks}
    for path in existing:
        arm, task = arms.get(path.parent.name), tasks.get(path.parent.parent.name)
        if arm is not None and task is not None:
            _check_run(study, arm, task, path, directory, digests[task])
    return before


def changes(previous: Mapping[str, Any], study: Study) -> list[str]:
    """The differences between a study and the previous one in its directory, one text for each."""
    found = []
    for name, now in json.loads(json.dumps(study.to_dict(), default=str)).items():
        before = previous.get(name, type(now)())
        if name == "arms":
            found += _names_changed("objectives", before, now)
            found += [text for arm in now if arm in before for text in _keys_changed(f"{arm}: ", before[arm], now[arm])]
        elif name == "keys":
            found += _keys_changed("", before, now)
        elif isinstance(now, list):
            found += _names_changed(name, before, now)
        elif before != now:
            found.append(f"{name} {before} → {now}")
    return found


def _names_changed(what: str, before: Iterable[Any], now: Iterable[Any]) -> list[str]:
    added = [f"+ {name}" for name in now if name not in before]
    removed = [f"- {name}" for name in before if name not in now]
    return [f"{what} {', '.join(added + removed)}"] if added or removed else []


def _keys_changed(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{prefix}{key} {before.get(key)!r} → {now.get(key)!r}" for key in _differing(before, now)]


def _check_empty(directory: Path) -> None:
    if directory.exists() and (
        not directory.is_dir() or any(not _is_ignored(path.name) for path in directory.iterdir())
    ):
        raise UserError(f"{directory} is not empty, and holds no study to resume: choose another --output_dir")


def _is_ignored(name: str) -> bool:
    """Whether a file may exist where a study starts: the study file, and leftovers of one that was killed at once."""
    return name in ("study.yaml", "study.lock") or name.endswith(".partial")


def _check_run(study: Study, arm: str, task: str, path: Path, directory: Path, digest: str) -> None:
    """Raise UserError if an existing run has another recipe or other problems than the study's."""
    file = path.with_name(f"{path.name}.json")
    if file.is_file():
        found = read_run_file(file)
        made: Mapping[str, Any] = found["recipe"]
        problems: str | None = found["problems"]
    else:
        try:
            config = Run(path).config()
        except (OSError, ValueError):
            return  # it hasn't started, or is damaged: then it fails, and is reported
        made, problems = config["recipe"], config.get("data", {}).get("digest")
    rate, seed = float(made["learning_rate"]), int(made["seed"])
    if seed not in study.seeds:
        return
    one = f"{arm} on {task}, learning rate {rate:g}, seed {seed}"
    if differing := _recipe_differences(made, study.recipe_keys(arm, task, rate, seed)):
        named = ", ".join(f"{key} {before!r}, not {now!r}" for key, (before, now) in list(differing.items())[:MAX_KEYS])
        more = f" and {len(differing) - MAX_KEYS} keys more" if len(differing) > MAX_KEYS else ""
        renamed = " give the objective another name," if differing.keys() <= study.arms[arm].keys() else ""
        raise UserError(
            f"{directory} holds another study's runs: {one} was run with {named}{more}. Set it back,{renamed} or "
            "choose another --output_dir"
        )
    if problems != digest:
        raise UserError(
            f"{directory} holds runs on other problems: those of {task} have changed since {one}. Choose "
            "another --output_dir"
        )


def _recipe_differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings, by key, in which two recipes differ once resolved, apart from output_dir."""
    made, wanted = ({**keys, "output_dir": "unused"} for keys in (made, json.loads(json.dumps(wanted, default=str))))
    differing = _differing(made, wanted)
    if not differing:
        return {}
    if "env" in differing:
        return {"env": (made.get("env"), wanted.get("env"))}
    before, now = (_without_storage(Recipe.parse(keys).settings()) for keys in (made, wanted))
    return {key: (before[key], now[key]) for key in _differing(before, now)}


def _without_storage(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a difference to a run; when checkpoints are saved does if the best one is chosen."""
    free = ("save_total_limit",) if settings["load_best_model_at_end"] else STORAGE_KEYS
    return {key: value for key, value in settings.items() if key not in (*free, *RECORD_KEYS)}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]
