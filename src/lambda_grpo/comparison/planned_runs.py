"""The runs of a study, and their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lambda_grpo.comparison.study import Study, file_name
from lambda_grpo.runs.study_record import RunNames

Rates = Mapping[tuple[str, str], Sequence[float]]  # the learning rates of each (arm, task), ascending


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study. path: its directory."""

    arm: str
    task: str
    learning_rate: float
    seed: int
    path: Path

    @property
    def result_file(self) -> Path:
        """Its figures, beside its directory: written last, so the run is finished if it is there."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def is_finished(self) -> bool:
        return self.result_file.is_file()

    def names(self) -> RunNames:
        """The keys that identify the run in results.json."""
        return {"objective": self.arm, "task": self.task, "learning_rate": self.learning_rate, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.arm} on {self.task}, learning rate {self.learning_rate:g}, seed {self.seed}"


def first_rates(study: Study) -> dict[tuple[str, str], tuple[float, ...]]:
    """The learning rates that all arms begin with."""
    return {(arm, task): study.learning_rates for task in study.tasks for arm in study.arms}


def planned_runs(study: Study, directory: Path, rates: Rates) -> list[PlannedRun]:
    """All runs at these learning rates, a whole seed after the other: a study in the middle has complete seeds."""
    return [
        PlannedRun(arm, task, rate, seed, run_path(directory, arm, task, rate, seed))
        for seed in study.seeds
        for task in study.tasks
        for arm in study.arms
        for rate in rates[arm, task]
    ]


def run_path(directory: Path, arm: str, task: str, learning_rate: float, seed: int) -> Path:
    """The directory of a run."""
    return directory / "runs" / file_name(task) / file_name(arm) / f"lr-{learning_rate:g}-seed-{seed}"


def existing_runs(directory: Path) -> list[Path]:
    """The directories of all runs of a study, whether it names them or not; finished ones may not exist any more."""
    folders = {path for path in directory.glob("runs/*/*/lr-*-seed-*") if path.is_dir()}
    finished = {path.with_suffix("") for path in directory.glob("runs/*/*/lr-*-seed-*.json")}
    return sorted(folders | finished)
