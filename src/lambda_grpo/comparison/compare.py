"""Running a study: the sweep, then the reported runs, then what they say."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lambda_grpo.comparison.measures import measure
from lambda_grpo.comparison.results import results
from lambda_grpo.comparison.study import Study, file_name
from lambda_grpo.errors import UserError
from lambda_grpo.parallel import Call, run_all
from lambda_grpo.runs import Run, provenance, write_json


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    arm: str
    task: str
    learning_rate: float
    seed: int
    path: Path

    def names(self) -> dict[str, Any]:
        """As results.json has them."""
        return {"objective": self.arm, "task": self.task, "learning_rate": self.learning_rate, "seed": self.seed}


def compare(study: Study, directory: Path, *, processes: int | None = None) -> dict[str, Any]:
    """Make the runs that the directory lacks, side by side, and write `results.json` there.

    An interrupted study goes on: finished runs are left alone, others go on from their last checkpoint. A failed run is
    tried again the next time.

    Args:
        processes: at the same time, with one thread each; the number of cores by default.

    Returns:
        What results.json holds.

    Raises:
        UserError: the directory holds something else, another process has it, or an objective can't start. No run has
            begun then.
    """
    check_directory(study, directory)
    check_arms(study)
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory):
        check_directory(study, directory)  # another study may have come first
        write_json(directory / "study.json", study.to_dict())
        failures: list[dict[str, Any]] = []
        sweep = [
            _planned(directory, arm, task, rate, seed)
            for seed in study.tuning_seeds
            for task in study.tasks
            for rate in study.learning_rates
            for arm in study.arms
        ]
        count = len(sweep) + len(study.arms) * len(study.tasks) * len(study.seeds)
        with tqdm(total=count, desc="compare", unit="run", file=sys.stderr) as bar:
            failures += _make(study, sweep, processes, bar)
            tuning = _tuning(study, sweep)
            chosen = {(row["objective"], row["task"]): row["learning_rate"] for row in tuning if row["chosen"]}
            reported = [
                _planned(directory, arm, task, chosen[arm, task], seed)
                for seed in study.seeds
                for task in study.tasks
                for arm in study.arms
                if (arm, task) in chosen
            ]
            failures += _make(study, reported, processes, bar)
        runs = []
        for one in reported:
            if _is_finished(one.path):
                try:
                    runs.append({**one.names(), **measure(Run(one.path), study.target_accuracy)})
                except (OSError, ValueError, KeyError) as error:  # files that were changed or cut short
                    failure = f"it can't be read: {type(error).__name__}: {error}"
                    failures.append({**one.names(), "failure": failure})
        found = {**results(study, runs, tuning, failures), **provenance()}
        write_json(directory / "results.json", found)
        return found


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
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


def check_directory(study: Study, directory: Path) -> None:
    """Raise UserError if the study can't begin or go on there."""
    file = directory / "study.json"
    if file.exists():
        try:
            there = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} can't be read ({error}): choose another --output_dir") from error
        if there != json.loads(json.dumps(study.to_dict(), default=str)):
            raise UserError(f"{directory} holds another study, see its study.json: choose another --output_dir")
        return
    if not directory.exists():
        return
    if not directory.is_dir() or any(not _may_be_there(path.name) for path in directory.iterdir()):
        raise UserError(f"{directory} is not empty, and holds no study to go on with: choose another --output_dir")


def _may_be_there(name: str) -> bool:
    """Where a study is to begin: its file, and what one that was killed at once left."""
    return name in ("study.yaml", "study.lock") or name.endswith(".partial")


def check_arms(study: Study) -> None:
    """Raise UserError, naming an objective that can't start, or a task that can't."""
    from lambda_grpo.training import check

    for task in study.tasks:
        for arm in study.arms:
            try:
                check(study.recipe_keys(arm, task, study.learning_rates[0], study.seeds[0]))
            except UserError as error:
                raise UserError(f"objective {arm!r} on {task!r} can't start: {error}") from error


def _planned(directory: Path, arm: str, task: str, learning_rate: float, seed: int) -> Planned:
    folder = directory / "runs" / file_name(task) / file_name(arm)
    return Planned(arm, task, learning_rate, seed, folder / f"lr-{learning_rate:g}-seed-{seed}")


def _is_finished(path: Path) -> bool:
    return (path / "report.html").exists()  # what a run writes last


def _make(study: Study, planned: Sequence[Planned], processes: int | None, bar: Any) -> list[dict[str, Any]]:
    """Make those that aren't finished. Returns the failed ones, with a word on why."""
    missing = []
    for one in planned:
        if not _is_finished(one.path):
            missing.append(one)
        elif not study.keep_checkpoints:  # a kill may have come between the end and this
            _remove_checkpoints(one.path)
    bar.initial += len(planned) - len(missing)  # what was there says nothing about the time that is left
    bar.update(len(planned) - len(missing))
    calls = [
        Call(
            "lambda_grpo.comparison.compare:train_one",
            (
                one.path,
                study.recipe_keys(one.arm, one.task, one.learning_rate, one.seed),
                study.keep_checkpoints,
            ),
            one.path.with_name(f"{one.path.name}.txt"),
        )
        for one in missing
    ]
    failed = {}
    for outcome in run_all(calls, processes=processes):
        bar.update()
        if outcome.failure is not None:
            one = missing[outcome.number]
            failed[outcome.number] = {**one.names(), "failure": outcome.failure}
            bar.write(
                f"failed: {one.arm} on {one.task}, learning rate {one.learning_rate:g}, seed {one.seed}: "
                f"{outcome.failure} (its output: {calls[outcome.number].output})",
                file=sys.stderr,
            )
    return [failed[number] for number in sorted(failed)]


def train_one(path: Path, keys: Mapping[str, Any], keep_checkpoints: bool) -> None:
    """One run, in a process of its own: from its last checkpoint if there is one, otherwise from the beginning."""
    from lambda_grpo.recipe import write_recipe
    from lambda_grpo.training import train

    run = Run(path)
    if run.checkpoints():
        train(overrides=["--output_dir", str(path)], resume=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
        recipe = write_recipe(path.with_name(f"{path.name}.yaml"), {**keys, "output_dir": str(path)})
        # All runs of a task begin with the same policy: it is evaluated by the first ones.
        shared = path.parents[1] / "before.json"
        train([str(recipe)], before=json.loads(shared.read_text()) if shared.exists() else None)
        before = run.evaluation("before")
        if before is not None:
            write_json(shared, before)
    if not keep_checkpoints:
        _remove_checkpoints(path)


def _remove_checkpoints(path: Path) -> None:
    for checkpoint in path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for weights in path.glob("*.safetensors"):  # of the final model
        weights.unlink()


def _tuning(study: Study, sweep: Sequence[Planned]) -> list[dict[str, Any]]:
    """Each arm's mean accuracy at each rate on the tuning seeds, and which one is chosen: of equal ones the lowest.

    The best of each arm. Where the endpoint has no better side, the best on average for all arms: another rate would be
    a difference of its own. A rate at which a run failed isn't chosen.
    """
    rates = sorted(study.learning_rates)
    values: dict[tuple[str, str, float], list[float | None]] = {}
    for one in sweep:  # of the tuning seeds in their order
        evaluation = Run(one.path).evaluation("after") if _is_finished(one.path) else None
        accuracy = None if evaluation is None else evaluation["accuracy"]
        values.setdefault((one.arm, one.task, one.learning_rate), []).append(accuracy)
    means: dict[tuple[str, str, float], float] = {}
    for key, found in values.items():
        known = [value for value in found if value is not None]
        if len(known) == len(found):
            means[key] = sum(known) / len(known)

    def best(arm: str, task: str) -> float | None:
        if study.has_better_side:
            tried = {rate: means[arm, task, rate] for rate in rates if (arm, task, rate) in means}
        else:
            complete = [one for one in study.arms if all((one, task, rate) in means for rate in rates)]
            tried = {rate: sum(means[one, task, rate] for one in complete) for rate in rates} if complete else {}
        return max(tried, key=lambda rate: tried[rate]) if tried else None

    rows = []
    for task in study.tasks:
        for arm in study.arms:
            chosen = best(arm, task)
            for rate in rates:
                names = {"objective": arm, "task": task, "learning_rate": rate}
                own = {"value": means.get((arm, task, rate)), "values": values[arm, task, rate]}
                rows.append({**names, **own, "chosen": rate == chosen})
    return rows
