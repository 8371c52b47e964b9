"""Running a study: all arms at all learning rates, those beyond an end where it is needed, then the results."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lambda_grpo.comparison.measures import measure
from lambda_grpo.comparison.planned_runs import PlannedRun, existing_runs, first_rates, planned_runs
from lambda_grpo.comparison.processes import Plan, choose_processes, study_footprint, study_memory
from lambda_grpo.comparison.results import results
from lambda_grpo.comparison.run_results import RunFile, read_run_file, restore_run_files
from lambda_grpo.comparison.same_methods import describe, same_methods
from lambda_grpo.comparison.storage import check_study_space, keep_what_resumes, remove_unwanted
from lambda_grpo.comparison.study import RECORD_KEYS, STORAGE_KEYS, Study
from lambda_grpo.comparison.study_directory import changes, check_directory, exclusive_lock
from lambda_grpo.comparison.sweep import next_rates
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
    kept, but aren't in its results. A directory that has only results.json, as a published study, resumes likewise.

    Args:
        processes: how many run at the same time. Default: as `choose_processes` finds from cores, memory and model.

    Returns:
        The content of results.json.

    Raises:
        UserError: the directory holds other files, or a run of this study with another recipe; another process uses
            it; or an objective can't start. No run has started in that case.
        DiskFullError: the disk has too little space, or is full in the middle. What is finished is kept.
    """
    whole, study, same = study, *_without_duplicates(study)
    needed = study_footprint(study)
    plan = choose_processes(
        needed,
        cores=cores(),
        memory=study_memory(study),
        runs=study.number_of_runs(),
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
        restore_run_files(directory)
        before = check_directory(study, directory, digests)  # again: another study may have started first
        if before is not None and (changed := changes(before, whole)):
            print(f"The study in {directory} resumes with changes: {'; '.join(changed)}", file=sys.stderr)
        write_json(directory / "study.json", whole.to_dict())
        runs, failures = _run_all_rates(study, directory, digests, plan)
        record = results(study, runs, failures, problems=digests, same_methods=same)
        write_json(directory / "results.json", record)
        return record


def _without_duplicates(study: Study) -> tuple[Study, dict[str, str]]:
    """The study without arms that are the same method as another one under its settings, and those, by name.

    Raises:
        UserError: only one method is left.
    """
    against_first = {study.against: study.arms[study.against], **study.arms}
    same = same_methods(replace(study, arms=against_first))
    for sentence in describe(same, study):
        print(sentence, file=sys.stderr)
    if len(study.arms) - len(same) < 2:
        raise UserError(f"nothing to compare: all objectives are the same method as {study.against} here")
    return replace(study, arms={arm: keys for arm, keys in study.arms.items() if arm not in same}), same


def _run_all_rates(
    study: Study, directory: Path, digests: Mapping[str, str], plan: Plan
) -> tuple[list[RunResult], list[FailureRecord]]:
    """Run what is missing at the study's learning rates, then beyond them while an arm's best one is at an end."""
    rates, failures = first_rates(study), dict[Path, FailureRecord]()
    bar: Any
    with tqdm(desc="compare", unit="run", total=0, file=sys.stderr) as bar:
        planned: list[PlannedRun] = []
        while True:
            known = {one.path for one in planned}
            planned = planned_runs(study, directory, rates)
            new = [one for one in planned if one.path not in known]
            bar.total += len(new)
            failures.update(_run_missing(study, new, digests, plan, bar))
            runs: list[RunResult] = [
                {**one.names(), **read_run_file(one.result_file)["figures"], "chosen": False}
                for one in planned
                if one.is_finished
            ]
            wider = next_rates(study, rates, runs)
            if wider == rates:
                break
            rates = wider
    _report_unnamed(directory, planned)
    return runs, [failures[one.path] for one in planned if one.path in failures]


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
    others = set(existing_runs(directory)) - {one.path for one in planned}
    if others:
        runs = "1 run" if len(others) == 1 else f"{len(others)} runs"
        print(f"{runs} in {directory / 'runs'} that this study doesn't name: kept, but not in results", file=sys.stderr)


def _run_missing(
    study: Study, planned: Sequence[PlannedRun], digests: Mapping[str, str], plan: Plan, bar: Any
) -> dict[Path, FailureRecord]:
    """Run those that aren't finished. Returns the failed ones by their directories."""
    missing = []
    for one in planned:
        if one.is_finished and read_run_file(one.result_file)["target_accuracy"] == study.target_accuracy:
            remove_unwanted(study, one.path)  # the study may have been killed before it did
        else:
            missing.append(one)
    keep_what_resumes(study, missing)
    bar.initial += len(planned) - len(missing)  # existing runs don't count for the estimated time
    bar.update(len(planned) - len(missing))
    calls = [
        Call(
            "lambda_grpo.comparison.compare:train_one",
            (
                study,
                one,
                digests[one.task],
                _shared_evaluation(study, one, digests[one.task]),
            ),
            one.path.with_name(f"{one.path.name}.txt"),
        )
        for one in missing
    ]
    failed: dict[Path, FailureRecord] = {}
    with closing(run_all(calls, preload=PRELOAD, processes=plan.processes, threads=plan.threads)) as outcomes:
        for outcome in outcomes:
            bar.update()
            if outcome.failure is None:
                continue
            one = missing[outcome.index]
            if is_disk_full(outcome.failure) or NOT_ENOUGH in outcome.failure:  # the others would fail, too
                break
            failed[one.path] = {**one.names(), "failure": outcome.failure}
            keep_what_resumes(study, [one])
            bar.write(
                f"failed: {one}: {outcome.failure} (its output: {calls[outcome.index].output})",
                file=sys.stderr,
            )
        else:
            return failed
    full = full_folder(one.path.parent)  # before the removal, which frees space
    keep_what_resumes(study, missing)
    raise DiskFullError(full, "and run the study again to resume it")


def _shared_evaluation(study: Study, one: PlannedRun, problems: str) -> Path:
    """The file of the evaluation before training, shared by the runs with the same policy and problems."""
    without = {"task", "learning_rate", "seed", *STORAGE_KEYS, *RECORD_KEYS}
    shared = {key: value for key, value in study.keys.items() if key not in without}
    name = digest([json.loads(json.dumps(shared, default=str)), problems])
    return one.path.parents[1] / f"before-{name}.json"


def train_one(study: Study, one: PlannedRun, problems: str, shared: Path) -> None:
    """Train one run in this process, from its last checkpoint if there is one, and write the file of its figures.

    Args:
        problems: the digest of the task's problems.
        shared: the file of the evaluation before training, which the first runs of a task write for the others.
    """
    from lambda_grpo.training.run import train

    path, run = one.path, Run(one.path)
    recipe = study.recipe_keys(one.arm, one.task, one.learning_rate, one.seed)
    keys = {"run_name": "-".join(path.parts[-3:]), **recipe}  # in metric loggers, where a study's runs lie side by side
    if run.checkpoints():
        settings = Recipe.parse({**keys, "output_dir": str(path)}).settings()
        changed = [word for key in STORAGE_KEYS for word in _as_option(key, settings[key])]
        train(overrides=["--output_dir", str(path), *changed], resume=True, report=False)
    elif run.evaluation("after") is None:
        shutil.rmtree(path, ignore_errors=True)
        file = write_recipe(path.with_name(f"{path.name}.yaml"), {**keys, "output_dir": str(path)})
        before = json.loads(shared.read_text()) if shared.exists() else None
        train([str(file)], before=before, report=False)  # a page takes as long as a tenth of a short run
        before = run.evaluation("before")
        if before is not None:
            write_json(shared, before)
    found: RunFile = {
        "recipe": json.loads(json.dumps(recipe, default=str)),
        "problems": problems,
        "target_accuracy": study.target_accuracy,
        "figures": measure(run, study.target_accuracy),
    }
    write_json(one.result_file, found)
    remove_unwanted(study, path)


def _as_option(key: str, value: Any) -> list[str]:
    """A setting as on a command line; nothing for None."""
    return [] if value is None else [f"--{key}", str(getattr(value, "value", value))]
