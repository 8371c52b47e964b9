"""What `lambda-grpo eval` leaves behind, and going on there after a stop.

TASK.json            settings, model, template, versions; at the end the metrics
TASK.samples.jsonl   a line for each sample: prompt, completion, answers, verdict

Nothing is left of an evaluation that fails before its first samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.samples import Evaluation, Row
from lambda_grpo.files import write_json, write_text

SAMPLES = ".samples.jsonl"
SERVER_LOG = "vllm.log"  # of a server that is started for the evaluation

# What may differ where an evaluation goes on: it doesn't change what is drawn.
INCIDENTAL = {"git_commit", "server"}


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Make the directory and keep other programs out of it; remove it again if there are no samples at the end.

    Raises:
        UserError: another program evaluates there.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    lock = FileLock(directory / ".lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"another program evaluates in {directory}: choose another --output_dir") from error
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        if made and not any(directory.glob(f"*{SAMPLES}")):
            for name in (".lock", SERVER_LOG):
                (directory / name).unlink(missing_ok=True)
        with suppress(OSError):  # up to the first that isn't empty
            for path in made:
                path.rmdir()


class EvaluationFiles:
    """The files of one task in an output directory. Row i is work item i: (problem, sample) in order.

    Args:
        directory: nothing is written there before the first samples are added.
        settings: what decides the result, as JSON holds it; `n` problems, `samples` of each.
        batch_size: samples that are drawn together.

    Raises:
        UserError: the directory holds an evaluation of this task with other settings, or something that isn't one.
    """

    def __init__(self, directory: Path, name: str, settings: Mapping[str, Any], batch_size: int):
        self.result_path = directory / f"{name}.json"
        self.samples_path = directory / f"{name}{SAMPLES}"
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        self.batch_size = batch_size
        self.total: int = self.settings["n"] * self.settings["samples"]
        self.result: dict[str, Any] | None = None  # once it is finished
        self.rows: list[Row] = []
        if self.result_path.exists():
            found = self._read_result()
            self._check(found)
            self.result = found if found["finished"] else None
            self._read_rows()
        elif self.samples_path.exists():
            raise UserError(f"{self.samples_path} has lost its {self.result_path.name}: choose another --output_dir")

    @property
    def missing(self) -> int:
        """How many samples aren't there yet."""
        return self.total - len(self.rows)

    def _read_result(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.result_path.read_text())
            if "finished" in found:
                return found
        except json.JSONDecodeError:
            pass
        raise UserError(f"{self.result_path} is no result of lambda-grpo eval: choose another --output_dir")

    def _check(self, found: Mapping[str, Any]) -> None:
        for key, value in self.settings.items():
            # what is finished may be looked at with other versions, but not gone on with
            if key in INCIDENTAL or (key == "versions" and found["finished"]) or found.get(key) == value:
                continue
            raise UserError(
                f"{self.result_path} is of another evaluation: its {key} is {found.get(key)!r}, not {value!r}. "
                "Choose another --output_dir"
            )

    def _read_rows(self) -> None:
        """What is there up to the last whole batch. A kill may have cut the last line short."""
        text = self.samples_path.read_text() if self.samples_path.exists() else ""
        lines = complete = text.split("\n")[:-1]
        samples = self.settings["samples"]
        if len(lines) < self.total:
            lines = lines[: len(lines) - len(lines) % self.batch_size]
        try:
            self.rows = [Row(**json.loads(line)) for line in lines]
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{self.samples_path} can't be read ({error}): choose another --output_dir") from error
        if len(lines) > self.total or any(
            (row.problem, row.sample) != divmod(i, samples) for i, row in enumerate(self.rows)
        ):
            raise UserError(f"{self.samples_path} holds other samples than these: choose another --output_dir")
        if len(lines) < len(complete) or not text.endswith("\n"):
            write_text(self.samples_path, "".join(line + "\n" for line in lines))

    def add(self, rows: list[Row]) -> None:
        """Append a batch."""
        if not self.result_path.exists():
            write_json(self.result_path, {**self.settings, "finished": False})
        with open(self.samples_path, "a") as file:
            file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        self.rows += rows

    def finish(self, evaluation: Evaluation) -> dict[str, Any]:
        """Write the result, and return it."""
        result = {**self.settings, **evaluation.to_dict(), "finished": True}
        write_json(self.result_path, result)
        self.result = json.loads(json.dumps(result, default=str))
        return self.result
