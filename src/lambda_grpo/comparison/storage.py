"""The disk space of a study: what its runs need, and which of their files are kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lambda_grpo.comparison.planned_runs import PlannedRun, first_rates, planned_runs
from lambda_grpo.comparison.study import Study
from lambda_grpo.disk import NOT_ENOUGH, free_bytes
from lambda_grpo.errors import UserError
from lambda_grpo.formatting import byte_size
from lambda_grpo.runs.directory import Run, is_run
from lambda_grpo.training.footprint import Footprint


def check_study_space(study: Study, directory: Path, needed: Footprint | None, processes: int) -> None:
    """Check that the checkpoints and models of a study's missing runs fit on the disk.

    Args:
        needed: of one run; None if it isn't known.
        processes: runs that are made at the same time.

    Raises:
        UserError: they don't.
    """
    if needed is None:
        return
    unfinished = [one for one in planned_runs(study, directory, first_rates(study)) if not one.is_finished]
    missing = len(unfinished)
    at_once = min(processes, missing)
    occupied = sum(Run(one.path).weights_bytes() for one in unfinished)
    total = at_once * needed.disk + (missing - at_once) * needed.disk_at_end * study.keep_checkpoints - occupied
    free = free_bytes(directory)
    if total <= free:
        return
    kept = f"{missing} runs of which checkpoints are kept (keep_checkpoints)"
    what = kept if study.keep_checkpoints else f"{at_once} runs at the same time"
    instead = "leave keep_checkpoints out" if study.keep_checkpoints else "choose fewer --processes"
    raise UserError(
        f"{NOT_ENOUGH}{directory} needs at least {byte_size(total)} for {what}, with checkpoints of "
        f"{byte_size(needed.checkpoint)} each, and {byte_size(free)} are free: free some, {instead}, set save_strategy "
        "to 'no', or choose another --output_dir"
    )


def remove_unwanted(study: Study, path: Path) -> None:
    """Remove what a study doesn't keep of a finished run.

    That is its checkpoints and final model, since its records are all that counts, or its directory as a whole.
    """
    if not study.keep_runs:
        shutil.rmtree(path, ignore_errors=True)
        for suffix in (".yaml", ".txt"):
            path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    elif not study.keep_checkpoints:
        for checkpoint in path.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        for weights in path.glob("*.safetensors"):  # of the final model
            weights.unlink()


def keep_what_resumes(study: Study, runs: Sequence[PlannedRun]) -> None:
    """Remove what unfinished runs don't need to resume.

    Half-written files go, and all checkpoints but the last and the best one, unless the study keeps checkpoints.
    """
    for one in runs:
        if one.is_finished or not is_run(one.path):
            continue
        run = Run(one.path)
        run.remove_half_written()
        checkpoints = run.checkpoints()
        needed = checkpoints if study.keep_checkpoints else [*checkpoints[-1:], run.policy_checkpoint()]
        for checkpoint in checkpoints:
            if checkpoint not in needed:
                shutil.rmtree(checkpoint)
