"""Running a study: the learning-rate sweep, then the reported runs, then the results."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lambda_grpo.comparison.measures import measure
from lambda_grpo.comparison.planned_runs import PlannedRun, reported_runs, run_folders, tuning_runs
from lambda_grpo.comparison.processes import Plan, choose_processes, study_footprint, study_memory
from lambda_grpo.comparison.results import results
from lambda_grpo.comparison.storage import check_study_space, keep_what_resumes, remove_weights
from lambda_grpo.comparison.study import STORAGE_KEYS, Study
from lambda_grpo.comparison.study_directory import changes, check_directory, exclusive_lock
from lambda_grpo.comparison.sweep import choose_learning_rates
from lambda_grpo.disk import NOT_ENOUGH, DiskFullError, full_folder, is_disk_full
from lambda_grpo.errors import UserError
from lambda_grpo.files import write_json
from lambda_grpo.parallel import Call, cores, run_all
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.provenance import digest
from lambda_grpo.runs.study_record import FailureRecord, RunResult, StudyRecord
from lambda_grpo.training.recipe import Recipe, write_recipe

PRELOAD = "lambda_grpo.training.preload"  # imported once for all runs of a study


def compare(study: Study, directory: Path, *, processes: int | None = None) -> StudyRecord:
    """Run the missing runs of a study in parallel, and write `results.json` into its directory.

    An interrupted study resumes: finished runs are reused, others continue from their last checkpoint. A failed run is
    tried again the next time. If the study has changed, its existing runs are reused; runs that it no longer names are
    kept, but aren't in its results.

    Args:
        processes: how many run at the same time. Default: as `choose_processes` finds from cores, memory and model.

    Returns:
        The content of results.json.

    Raises:
        UserError: the directory holds other files, or a run of this study with another recipe; another process uses
            it; or an objective can't start. No run has started in that case.
        DiskFullError: the disk has too little space, or is full in the middle. What is finished is kept.
    """
    needed = study_footprint(study)
    plan = choose_processes(
        needed,
        cores=cores(),
        memory=study_memory(study),
        runs=study.most_runs_at_once(),
        processes=processes,
    )
    print(plan, file=sys.stderr)
    if plan.warning is not None:
        print(f"lambda-grpo: warning: {plan.warning}", file=sys.stderr)
    digests = check_arms(study)
    check_directory(study, directory, digests)
    check_study_space(study, directory, needed, plan.processes)
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory):
        before = check_directory(study, directory, digests)  # again: another study may have started first
        if before is not None and (changed := changes(before, study)):
            print(f"The study in {directory} resumes with changes: {'; '.join(changed)}", file=sys.stderr)
        write_json(directory / "study.json", study.to_dict())
        failures: list[FailureRecord] = []
        tuned = tuning_runs(study, directory)
        with tqdm(total=study.number_of_runs(), desc="compare", unit="run", file=sys.stderr) as bar:
            failures += _run_missing(study, tuned, digests, plan, bar)
            tuning = choose_learning_rates(study, tuned)
            chosen = {(rate["objective"], rate["task"]): rate["learning_rate"] for rate in tuning if rate["chosen"]}
            reported = reported_runs(study, directory, chosen)
            failures += _run_missing(study, reported, digests, plan, bar)
        _report_unnamed(directory, [*tuned, *reported])
        runs: list[RunResult] = []
        for one in reported:
            if one.is_finished:
                try:
                    runs.append({**one.names(), **measure(Run(one.path), study.target_accuracy)})
                except (OSError, ValueError, KeyError) as error:  # files that were changed or truncated
                    failure = f"it can't be read: {type(error).__name__}: {error}"
                    failures.append({**one.names(), "failure": failure})
        record = results(study, runs, tuning, failures)
        write_json(directory / "results.json", record)
        return record


def check_arms(study: Study) -> dict[str, str]:
    """Check that each arm can start on each task. Returns a digest of each task's problems.

    Raises:
        UserError: an objective can't start on a task; the message names both.
    """
    from lambda_grpo.training.run import check_recipe

    digests = {}
    for task in study.tasks:
        for arm in study.arms:
            try:
                digests[task] = check_recipe(study.recipe_keys(arm, task, study.learning_rates[0], study.seeds[0]))
            except UserError as error:
                raise UserError(f"objective {arm!r} on {task!r} can't start: {error}") from error
            gc.collect()  # the model that was loaded
    return digests


def _report_unnamed(directory: Path, planned: Sequence[PlannedRun]) -> None:
    """Print how many runs of the directory the study doesn't name."""
    others = set(run_folders(directory)) - {one.path for one in planned}
    if others:
        runs = "1 run" if len(others) == 1 else f"{len(others)} runs"
        print(f"{runs} in {directory / 'runs'} that this study doesn't name: kept, but not in results", file=sys.stderr)


def _run_missing(
    study: Study, planned: Sequence[PlannedRun], digests: Mapping[str, str], plan: Plan, bar: Any
) -> list[FailureRecord]:
    """Run those that aren't finished. Returns the failed ones."""
    missing = []
    for one in planned:
        if not one.is_finished:
            missing.append(one)
        elif not study.keep_checkpoints:  # the study may have been killed before it removed them
            remove_weights(one.path)
    keep_what_resumes(study, missing)
    bar.initial += len(planned) - len(missing)  # existing runs don't count for the estimated time
    bar.update(len(planned) - len(missing))
    calls = [
        Call(
            "lambda_grpo.comparison.compare:train_one",
            (
                one.path,
                study.recipe_keys(one.arm, one.task, one.learning_rate, one.seed),
                _shared_evaluation(study, one, digests[one.task]),
                study.keep_checkpoints,
            ),
            one.path.with_name(f"{one.path.name}.txt"),
        )
        for one in missing
    ]
    failed: dict[int, FailureRecord] = {}
    with closing(run_all(calls, preload=PRELOAD, processes=plan.processes, threads=plan.threads)) as outcomes:
        for outcome in outcomes:
            bar.update()
            if outcome.failure is None:
                continue
            one = missing[outcome.index]
            if is_disk_full(outcome.failure) or NOT_ENOUGH in outcome.failure:  # the others would fail, too
                break
            failed[outcome.index] = {**one.names(), "failure": outcome.failure}
            keep_what_resumes(study, [one])
            bar.write(
                f"failed: {one}: {outcome.failure} (its output: {calls[outcome.index].output})",
                file=sys.stderr,
            )
        else:
            return [failed[index] for index in sorted(failed)]
    full = full_folder(one.path.parent)  # before the removal, which frees space
    keep_what_resumes(study, missing)
    raise DiskFullError(full, "and run the study again to resume it")


def _shared_evaluation(study: Study, one: PlannedRun, problems: str) -> Path:
    """The file of the evaluation before training, shared by the runs with the same policy and problems."""
    shared = {
        key: value for key, value in study.keys.items() if key not in ("task", "learning_rate", "seed", *STORAGE_KEYS)
    }
    name = digest([json.loads(json.dumps(shared, default=str)), problems])
    return one.path.parents[1] / f"before-{name}.json"


def train_one(path: Path, keys: Mapping[str, Any], shared: Path, keep_checkpoints: bool) -> None:
    """Train one run in this process, from its last checkpoint if there is one.

    Args:
        shared: the file of the evaluation before training, which the first runs of a task write for the others.
    """
    from lambda_grpo.training.run import train

    run = Run(path)
    if run.checkpoints():
        settings = Recipe.parse({**keys, "output_dir": str(path)}).settings()
        changed = [word for key in STORAGE_KEYS for word in _as_option(key, settings[key])]
        train(overrides=["--output_dir", str(path), *changed], resume=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
        recipe = write_recipe(path.with_name(f"{path.name}.yaml"), {**keys, "output_dir": str(path)})
        train([str(recipe)], before=json.loads(shared.read_text()) if shared.exists() else None)
        before = run.evaluation("before")
        if before is not None:
            write_json(shared, before)
    if not keep_checkpoints:
        remove_weights(path)


def _as_option(key: str, value: Any) -> list[str]:
    """A setting as on a command line; nothing for None."""
    return [] if value is None else [f"--{key}", str(getattr(value, "value", value))]
