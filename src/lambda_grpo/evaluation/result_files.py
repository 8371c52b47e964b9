"""The output files of `lambda-grpo eval`, and resuming from them.

TASK.json            settings, model, template, versions; when finished, the metrics (`record.EvaluationRecord`)
TASK.samples.jsonl   one line per sample (`samples.Sample`): prompt, completion, answers, verdict

An evaluation that fails before its first samples leaves no files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.record import EvaluationRecord, EvaluationSettings
from lambda_grpo.evaluation.samples import Evaluation, Sample
from lambda_grpo.files import write_json, write_text

SAMPLES = ".samples.jsonl"
SERVER_LOG = "vllm.log"  # log of a server that is started for the evaluation

MAY_CHANGE_ON_RESUME = {"git_commit", "server"}  # settings that don't change what is sampled


@contextmanager
def exclusive_directory(directory: Path) -> Iterator[None]:
    """Create the directory and lock it against other programs; remove it if it has no samples at the end.

    Raises:
        UserError: another program is evaluating there.
    """
    created = [path for path in (directory, *directory.parents) if not path.exists()]
    lock = FileLock(directory / ".lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"another program is evaluating in {directory}: choose another --output_dir") from error
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        if created and not any(directory.glob(f"*{SAMPLES}")):
            for name in (".lock", SERVER_LOG):
                (directory / name).unlink(missing_ok=True)
        with suppress(OSError):  # stops at the first directory that isn't empty
            for path in created:
                path.rmdir()


class EvaluationFiles:
    """The files of one task in an output directory. Samples are in order: all of problem 0, then of problem 1, ….

    Args:
        directory: nothing is written there before the first samples are added.
        settings: everything that determines the result, in JSON's types.
        batch_size: samples that are drawn together.

    Raises:
        UserError: the directory holds an evaluation of this task with other settings, or files that can't be read.
    """

    def __init__(self, directory: Path, name: str, settings: EvaluationSettings, batch_size: int):
        self.result_path = directory / f"{name}.json"
        self.samples_path = directory / f"{name}{SAMPLES}"
        self.settings: EvaluationSettings = json.loads(json.dumps(settings, default=str))
        self.batch_size = batch_size
        self.total = self.settings["n"] * self.settings["samples"]
        self.result: EvaluationRecord | None = None  # None until the evaluation is finished
        self.samples: list[Sample] = []
        if self.result_path.exists():
            found = self._read_result()
            self._check_settings(found)
            self.result = found if found["finished"] else None
            self._read_samples()
        elif self.samples_path.exists():
            raise UserError(
                f"{self.samples_path} has no {self.result_path.name} beside it: choose another --output_dir"
            )

    @property
    def missing(self) -> int:
        """How many samples are still to be drawn."""
        return self.total - len(self.samples)

    def _read_result(self) -> Any:
        try:
            found = json.loads(self.result_path.read_text())
            if "finished" in found:
                return found
        except json.JSONDecodeError:
            pass
        raise UserError(f"{self.result_path} isn't a result of lambda-grpo eval: choose another --output_dir")

    def _check_settings(self, found: dict[str, Any]) -> None:
        for key, value in self.settings.items():
            # a finished result can be shown with other package versions; an unfinished one can't be resumed with them
            if key in MAY_CHANGE_ON_RESUME or (key == "versions" and found["finished"]) or found.get(key) == value:
                continue
            raise UserError(
                f"{self.result_path} is of another evaluation: its {key} is {found.get(key)!r}, not {value!r}. "
                "Choose another --output_dir"
            )

    def _read_samples(self) -> None:
        """Read the samples up to the last whole batch. If the program was killed, the last line may be incomplete."""
        text = self.samples_path.read_text() if self.samples_path.exists() else ""
        lines = complete = text.split("\n")[:-1]
        if len(lines) < self.total:
            lines = lines[: len(lines) - len(lines) % self.batch_size]
        try:
            self.samples = [Sample(**json.loads(line)) for line in lines]
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{self.samples_path} can't be read ({error}): choose another --output_dir") from error
        expected = (divmod(i, self.settings["samples"]) for i in range(len(lines)))
        if len(lines) > self.total or [(one.problem, one.sample) for one in self.samples] != list(expected):
            raise UserError(f"{self.samples_path} holds samples of another evaluation: choose another --output_dir")
        if len(lines) < len(complete) or not text.endswith("\n"):
            write_text(self.samples_path, "".join(line + "\n" for line in lines))

    def add(self, samples: list[Sample]) -> None:
        """Append a batch."""
        if not self.result_path.exists():
            write_json(self.result_path, {**self.settings, "finished": False})
        with open(self.samples_path, "a") as file:
            file.write("".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
        self.samples += samples

    def finish(self, evaluation: Evaluation) -> EvaluationRecord:
        """Write the result, and return it."""
        result = {**self.settings, **evaluation.to_dict(), "finished": True}
        write_json(self.result_path, result)
        written: EvaluationRecord = json.loads(json.dumps(result, default=str))
        self.result = written
        return written
