"""Where a study may begin or go on: in an empty directory, or in one whose runs have the recipes that it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lambda_grpo.comparison.plan import Planned, possible, run_folders
from lambda_grpo.comparison.study import Study
from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.recipe import Recipe

SHOWN = 3  # differing keys that a message names


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other studies out while this process lives: the lock goes when it does, by a kill too."""
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
    """The study that the directory holds, as its study.json has it; None where there is none yet.

    Args:
        digests: of each task's problems.

    Raises:
        UserError: it holds something else, or a run of this study that was made with another recipe or on other
            problems.
    """
    file = directory / "study.json"
    if not file.exists():
        _check_free(directory)
        return None
    try:
        there: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} can't be read ({error}): choose another --output_dir") from error
    if run_folders(directory) and there.get("endpoint") != study.endpoint:
        raise UserError(
            f"{directory} holds another study: its endpoint, named before its runs, is {there.get('endpoint')}, not "
            f"{study.endpoint}. Set it back, or choose another --output_dir"
        )
    for one in possible(study, directory):
        _check_run(study, one, directory, digests[one.task])
    return there


def changes(there: Mapping[str, Any], study: Study) -> list[str]:
    """What a study asks for that the one in its directory didn't, and the other way round: a piece of text each."""
    found = []
    for name, now in json.loads(json.dumps(study.to_dict(), default=str)).items():
        before = there.get(name, type(now)())
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
    added = [f"+ {one}" for one in now if one not in before]
    removed = [f"- {one}" for one in before if one not in now]
    return [f"{what} {', '.join(added + removed)}"] if added or removed else []


def _keys_changed(of: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{of}{key} {before.get(key)!r} → {now.get(key)!r}" for key in _differing(before, now)]


def _check_free(directory: Path) -> None:
    if directory.exists() and (
        not directory.is_dir() or any(not _may_be_there(path.name) for path in directory.iterdir())
    ):
        raise UserError(f"{directory} is not empty, and holds no study to go on with: choose another --output_dir")


def _may_be_there(name: str) -> bool:
    """Where a study is to begin: its file, and what one that was killed at once left."""
    return name in ("study.yaml", "study.lock") or name.endswith(".partial")


def _check_run(study: Study, one: Planned, directory: Path, digest: str) -> None:
    """Raise UserError if a run that is there isn't the one that the study asks for."""
    try:
        config = Run(one.path).config()
    except (OSError, ValueError):
        return  # it hasn't begun; one that is damaged fails by itself, and is named then
    made, asked = config["recipe"], study.recipe_keys(one.arm, one.task, one.learning_rate, one.seed)
    if differing := _recipe_differences(made, asked):
        named = ", ".join(f"{key} {before!r}, not {now!r}" for key, (before, now) in list(differing.items())[:SHOWN])
        more = f" and {len(differing) - SHOWN} keys more" if len(differing) > SHOWN else ""
        renamed = " give the objective another name," if differing.keys() <= study.arms[one.arm].keys() else ""
        raise UserError(
            f"{directory} holds another study's runs: {one} was made with {named}{more}. Set it back,{renamed} or "
            "choose another --output_dir"
        )
    if config.get("data", {}).get("digest") != digest:
        raise UserError(
            f"{directory} holds runs on other problems: those of {one.task} have changed since {one} was made. Choose "
            "another --output_dir"
        )


def _recipe_differences(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings by key that two recipes resolve to differently, where their runs lie aside."""
    made, asked = ({**keys, "output_dir": "unused"} for keys in (made, json.loads(json.dumps(asked, default=str))))
    written = _differing(made, asked)
    if not written:
        return {}
    if "env" in written:
        return {"env": (made.get("env"), asked.get("env"))}
    before, now = (Recipe.parse(keys).settings() for keys in (made, asked))
    return {key: (before[key], now[key]) for key in _differing(before, now)}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]
