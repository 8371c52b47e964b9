"""The runs of a study, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_grpo.comparison.study import Study, file_name


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    arm: str
    task: str
    learning_rate: float
    seed: int
    path: Path

    @property
    def is_finished(self) -> bool:
        return (self.path / "report.html").exists()  # what a run writes last

    def names(self) -> dict[str, Any]:
        """As results.json has them."""
        return {"objective": self.arm, "task": self.task, "learning_rate": self.learning_rate, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.arm} on {self.task}, learning rate {self.learning_rate:g}, seed {self.seed}"


def sweep(study: Study, directory: Path) -> list[Planned]:
    """The runs that choose learning rates."""
    return [
        _planned(directory, arm, task, rate, seed)
        for seed in study.tuning_seeds
        for task in study.tasks
        for rate in study.learning_rates
        for arm in study.arms
    ]


def reported(study: Study, directory: Path, chosen: Mapping[tuple[str, str], float]) -> list[Planned]:
    """The runs that are compared, each at the rate chosen for its arm and task."""
    return [
        _planned(directory, arm, task, chosen[arm, task], seed)
        for seed in study.seeds
        for task in study.tasks
        for arm in study.arms
        if (arm, task) in chosen
    ]


def possible(study: Study, directory: Path) -> list[Planned]:
    """The runs of the sweep, and all that may be reported, whichever rates are chosen."""
    at_any_rate = [
        _planned(directory, arm, task, rate, seed)
        for seed in study.seeds
        for task in study.tasks
        for rate in study.learning_rates
        for arm in study.arms
    ]
    return [*sweep(study, directory), *at_any_rate]


def run_folders(directory: Path) -> list[Path]:
    """The runs that a study's directory holds, whether the study names them or not."""
    return sorted(path for path in directory.glob("runs/*/*/lr-*-seed-*") if path.is_dir())


def _planned(directory: Path, arm: str, task: str, learning_rate: float, seed: int) -> Planned:
    folder = directory / "runs" / file_name(task) / file_name(arm)
    return Planned(arm, task, learning_rate, seed, folder / f"lr-{learning_rate:g}-seed-{seed}")
