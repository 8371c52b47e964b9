"""The runs of a study, and their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lambda_grpo.comparison.study import Study, file_name
from lambda_grpo.runs.study_record import RunNames


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    arm: str
    task: str
    learning_rate: float
    seed: int
    path: Path

    @property
    def is_finished(self) -> bool:
        return (self.path / "report.html").exists()  # the last file that a run writes

    def names(self) -> RunNames:
        """The keys that identify the run in results.json."""
        return {"objective": self.arm, "task": self.task, "learning_rate": self.learning_rate, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.arm} on {self.task}, learning rate {self.learning_rate:g}, seed {self.seed}"


def tuning_runs(study: Study, directory: Path) -> list[PlannedRun]:
    """The runs of the learning-rate sweep."""
    return [
        _planned(directory, arm, task, rate, seed)
        for seed in study.tuning_seeds
        for task in study.tasks
        for rate in study.learning_rates
        for arm in study.arms
    ]


def reported_runs(study: Study, directory: Path, chosen: Mapping[tuple[str, str], float]) -> list[PlannedRun]:
    """The runs that are compared, at the learning rates chosen for their arm and task."""
    return [
        _planned(directory, arm, task, chosen[arm, task], seed)
        for seed in study.seeds
        for task in study.tasks
        for arm in study.arms
        if (arm, task) in chosen
    ]


def possible_runs(study: Study, directory: Path) -> list[PlannedRun]:
    """The runs of the sweep, and those that may be reported at any of the learning rates."""
    at_any_rate = [
        _planned(directory, arm, task, rate, seed)
        for seed in study.seeds
        for task in study.tasks
        for rate in study.learning_rates
        for arm in study.arms
    ]
    return [*tuning_runs(study, directory), *at_any_rate]


def run_folders(directory: Path) -> list[Path]:
    """All runs in a study's directory, whether the study names them or not."""
    return sorted(path for path in directory.glob("runs/*/*/lr-*-seed-*") if path.is_dir())


def _planned(directory: Path, arm: str, task: str, learning_rate: float, seed: int) -> PlannedRun:
    folder = directory / "runs" / file_name(task) / file_name(arm)
    return PlannedRun(arm, task, learning_rate, seed, folder / f"lr-{learning_rate:g}-seed-{seed}")
