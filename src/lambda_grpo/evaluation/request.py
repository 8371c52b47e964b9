"""The options of `lambda-grpo eval`, checked."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from lambda_grpo.errors import UserError
from lambda_grpo.options.evaluation import EvaluationOptions
from lambda_grpo.options.option import check_options
from lambda_grpo.runs.directory import is_run
from lambda_grpo.runs.provenance import digest
from lambda_grpo.suggestions import did_you_mean
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS


@dataclass(frozen=True, kw_only=True)
class Request(EvaluationOptions):
    """The options of `lambda-grpo eval`, checked.

    Raises:
        UserError: an option is invalid; the message names it.
    """

    def __post_init__(self) -> None:
        try:
            check_options(self, prefix="--")
        except ValueError as error:
            raise UserError(str(error)) from error
        if self.server is not None and self.engine != "vllm":
            raise UserError("--server needs --engine vllm")
        if self.data is not None and (len(self.tasks) > 1 or self.tasks[0] not in BENCHMARKS):
            meant = did_you_mean(self.tasks[0], BENCHMARKS) if len(self.tasks) == 1 else ""
            raise UserError(
                f"--data is another source of one benchmark: for a file of your own, name it as --task{meant}"
            )
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"--output_dir {self.directory} is a file")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that `task` names: a file, or names separated by commas."""
        names = [self.task] if Path(self.task).is_file() else [name.strip() for name in self.task.split(",")]
        return tuple(name for chosen in names for name in (BENCHMARKS if chosen == "benchmarks" else [chosen]))

    @property
    def directory(self) -> Path:
        """The directory of the results: `eval` of a run, or a folder of `evals` for this model and settings."""
        if self.output_dir is not None:
            return Path(self.output_dir)
        if is_run(self.model):
            return Path(self.model) / "eval"
        settings = {name: value for name, value in asdict(self).items() if name not in ("task", "output_dir", "server")}
        return Path("evals") / f"{file_name(self.model.strip('./'))}-{digest(settings)[:8]}"


def file_name(text: str) -> str:
    """The text with characters replaced that file names shouldn't have."""
    return re.sub(r"[^\w.-]+", "_", text)
