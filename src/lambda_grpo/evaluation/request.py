"""The options of `lambda-grpo eval`, checked."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import is_run
from lambda_grpo.runs.provenance import digest
from lambda_grpo.suggestions import did_you_mean
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS

ENGINES = ("auto", "fast", "transformers", "vllm")
MAX_SEED = 2**32


@dataclass(frozen=True)
class Request:
    """The options of `lambda-grpo eval`; None means the task's own default.

    Raises:
        UserError: an option is invalid; the message names it.
    """

    model: str
    tasks: tuple[str, ...]
    output_dir: str | None = None
    n: int | None = None
    data: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    samples: int = 1
    engine: str = "auto"
    server: str | None = None
    template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    shots: int = 0
    shots_data: str | None = None
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    max_completion_length: int | None = None
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "samples", "max_completion_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, got {value}")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature must be a number of at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0:
            raise UserError(f"--top_k must be at least 0 (0: no limit), got {self.top_k}")
        if self.shots < 0:
            raise UserError(f"--shots must be at least 0, got {self.shots}")
        if not 0 <= self.seed < MAX_SEED:
            raise UserError(f"--seed must be from 0 to {MAX_SEED - 1}, got {self.seed}")
        if self.engine not in ENGINES:
            raise UserError(
                f"--engine must be one of {', '.join(ENGINES)}, got {self.engine!r}{did_you_mean(self.engine, ENGINES)}"
            )
        if self.server is not None and self.engine != "vllm":
            raise UserError("--server needs --engine vllm")
        if self.data is not None and (len(self.tasks) > 1 or self.tasks[0] not in BENCHMARKS):
            meant = did_you_mean(self.tasks[0], BENCHMARKS) if len(self.tasks) == 1 else ""
            raise UserError(
                f"--data is another source of one benchmark: for a file of your own, name it as --task{meant}"
            )
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"--output_dir {self.directory} is a file")

    @property
    def directory(self) -> Path:
        """The directory of the results: `eval` of a run, or a folder of `evals` for this model and settings."""
        if self.output_dir is not None:
            return Path(self.output_dir)
        if is_run(self.model):
            return Path(self.model) / "eval"
        settings = {
            name: value for name, value in asdict(self).items() if name not in ("tasks", "output_dir", "server")
        }
        return Path("evals") / f"{file_name(self.model.strip('./'))}-{digest(settings)[:8]}"


def file_name(text: str) -> str:
    """The text with characters replaced that file names shouldn't have."""
    return re.sub(r"[^\w.-]+", "_", text)
