"""Running a study: the sweep, then the reported runs, then what they say."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lambda_grpo.comparison.directory import alone, changes, check_directory
from lambda_grpo.comparison.measures import measure
from lambda_grpo.comparison.plan import Planned, reported, run_folders, sweep
from lambda_grpo.comparison.results import results
from lambda_grpo.comparison.study import Study
from lambda_grpo.errors import UserError
from lambda_grpo.files import write_json
from lambda_grpo.parallel import Call, run_all
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.provenance import digest, provenance

PRELOAD = "lambda_grpo.training.preload"  # imported once, for all runs of a study


def compare(study: Study, directory: Path, *, processes: int | None = None) -> dict[str, Any]:
    """Make the runs that the directory lacks, side by side, and write `results.json` there.

    An interrupted study goes on: finished runs are left alone, others go on from their last checkpoint. A failed run is
    tried again the next time. A study that asks for more, or for less, than the one in the directory has every run of
    its own that is there; runs that it doesn't name stay, and aren't in its results.

    Args:
        processes: at the same time, with one thread each; the number of cores by default.

    Returns:
        What results.json holds.

    Raises:
        UserError: the directory holds something else, or a run of this study with another recipe; another process has
            it; or an objective can't start. No run has begun then.
    """
    digests = check_arms(study)
    check_directory(study, directory, digests)
    directory.mkdir(parents=True, exist_ok=True)
    with alone(directory):
        there = check_directory(study, directory, digests)  # another study may have come first
        if there is not None and (changed := changes(there, study)):
            print(f"The study in {directory} goes on with changes: {'; '.join(changed)}", file=sys.stderr)
        write_json(directory / "study.json", study.to_dict())
        failures: list[dict[str, Any]] = []
        tried = sweep(study, directory)
        count = len(tried) + len(study.arms) * len(study.tasks) * len(study.seeds)
        with tqdm(total=count, desc="compare", unit="run", file=sys.stderr) as bar:
            failures += _make(study, tried, digests, processes, bar)
            tuning = _tuning(study, tried)
            chosen = {(row["objective"], row["task"]): row["learning_rate"] for row in tuning if row["chosen"]}
            compared = reported(study, directory, chosen)
            failures += _make(study, compared, digests, processes, bar)
        _name_others(directory, [*tried, *compared])
        runs = []
        for one in compared:
            if one.is_finished:
                try:
                    runs.append({**one.names(), **measure(Run(one.path), study.target_accuracy)})
                except (OSError, ValueError, KeyError) as error:  # files that were changed or cut short
                    failure = f"it can't be read: {type(error).__name__}: {error}"
                    failures.append({**one.names(), "failure": failure})
        found = {**results(study, runs, tuning, failures), **provenance()}
        write_json(directory / "results.json", found)
        return found


def check_arms(study: Study) -> dict[str, str]:
    """A digest of each task's problems.

    Raises:
        UserError: an objective can't start on a task; it names both.
    """
    from lambda_grpo.training.run import check

    digests = {}
    for task in study.tasks:
        for arm in study.arms:
            try:
                digests[task] = check(study.recipe_keys(arm, task, study.learning_rates[0], study.seeds[0]))
            except UserError as error:
                raise UserError(f"objective {arm!r} on {task!r} can't start: {error}") from error
    return digests


def _name_others(directory: Path, planned: Sequence[Planned]) -> None:
    """Say how many runs of the directory the study doesn't name."""
    others = set(run_folders(directory)) - {one.path for one in planned}
    if others:
        runs = "1 run" if len(others) == 1 else f"{len(others)} runs"
        print(f"{runs} in {directory / 'runs'} that this study doesn't name: kept, and not in results", file=sys.stderr)


def _make(
    study: Study, planned: Sequence[Planned], digests: Mapping[str, str], processes: int | None, bar: Any
) -> list[dict[str, Any]]:
    """Make those that aren't finished. Returns the failed ones, with a word on why."""
    missing = []
    for one in planned:
        if not one.is_finished:
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
                _before(study, one, digests[one.task]),
                study.keep_checkpoints,
            ),
            one.path.with_name(f"{one.path.name}.txt"),
        )
        for one in missing
    ]
    failed = {}
    for outcome in run_all(calls, preload=PRELOAD, processes=processes):
        bar.update()
        if outcome.failure is not None:
            one = missing[outcome.index]
            failed[outcome.index] = {**one.names(), "failure": outcome.failure}
            bar.write(
                f"failed: {one}: {outcome.failure} (its output: {calls[outcome.index].output})",
                file=sys.stderr,
            )
    return [failed[number] for number in sorted(failed)]


def _before(study: Study, one: Planned, problems: str) -> Path:
    """Where runs of a task share the evaluation before training: those of the same policy, on the same problems."""
    shared = {key: value for key, value in study.keys.items() if key not in ("task", "learning_rate", "seed")}
    name = digest([json.loads(json.dumps(shared, default=str)), problems])
    return one.path.parents[1] / f"before-{name}.json"


def train_one(path: Path, keys: Mapping[str, Any], shared: Path, keep_checkpoints: bool) -> None:
    """One run, in a process of its own: from its last checkpoint if there is one, otherwise from the beginning.

    Args:
        shared: a file for the evaluation before training, which the first runs of a task make for all.
    """
    from lambda_grpo.training.recipe import write_recipe
    from lambda_grpo.training.run import train

    run = Run(path)
    if run.checkpoints():
        train(overrides=["--output_dir", str(path)], resume=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
        recipe = write_recipe(path.with_name(f"{path.name}.yaml"), {**keys, "output_dir": str(path)})
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


def _tuning(study: Study, tried: Sequence[Planned]) -> list[dict[str, Any]]:
    """Each arm's mean accuracy at each rate on the tuning seeds, and which one is chosen: of equal ones the lowest.

    The best of each arm. Where the endpoint has no better side, the best on average for all arms: another rate would be
    a difference of its own. A rate at which a run failed isn't chosen.
    """
    rates = sorted(study.learning_rates)
    values: dict[tuple[str, str, float], list[float | None]] = {}
    for one in tried:  # of the tuning seeds in their order
        evaluation = Run(one.path).evaluation("after") if one.is_finished else None
        accuracy = None if evaluation is None else evaluation["accuracy"]
        values.setdefault((one.arm, one.task, one.learning_rate), []).append(accuracy)
    means: dict[tuple[str, str, float], float] = {}
    for key, found in values.items():
        known = [value for value in found if value is not None]
        if len(known) == len(found):
            means[key] = sum(known) / len(known)

    def best(arm: str, task: str) -> float | None:
        if study.has_better_side:
            rated = {rate: means[arm, task, rate] for rate in rates if (arm, task, rate) in means}
        else:
            complete = [one for one in study.arms if all((one, task, rate) in means for rate in rates)]
            rated = {rate: sum(means[one, task, rate] for one in complete) for rate in rates} if complete else {}
        return max(rated, key=lambda rate: rated[rate]) if rated else None

    rows = []
    for task in study.tasks:
        for arm in study.arms:
            chosen = best(arm, task)
            for rate in rates:
                names = {"objective": arm, "task": task, "learning_rate": rate}
                own = {"value": means.get((arm, task, rate)), "values": values[arm, task, rate]}
                rows.append({**names, **own, "chosen": rate == chosen})
    return rows
