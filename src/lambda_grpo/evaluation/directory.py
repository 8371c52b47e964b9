"""What `lambda-grpo eval` leaves behind, and going on there after a stop.

TASK.json            settings, model, template, versions; at the end the metrics
TASK.samples.jsonl   a line for each sample: prompt, completion, answers, verdict
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.rows import Evaluation, Row
from lambda_grpo.runs import write_json

# What may differ where an evaluation goes on: it doesn't change what is drawn.
INCIDENTAL = {"versions", "git_commit", "server"}


class EvaluationFiles:
    """The files of one task in an output directory.

    Args:
        directory: is made if it isn't there.
        settings: what decides the result, as JSON holds it.
        batch_size: samples that are drawn together.

    Raises:
        UserError: the directory holds an evaluation of this task with other settings.
    """

    def __init__(self, directory: Path, task: str, settings: Mapping[str, Any], batch_size: int):
        directory.mkdir(parents=True, exist_ok=True)
        self.result_path = directory / f"{task}.json"
        self.samples_path = directory / f"{task}.samples.jsonl"
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        self.batch_size = batch_size
        self.rows: list[Row] = []
        if self.result_path.exists():
            self._check(json.loads(self.result_path.read_text()))
            self._read_rows()
        else:
            write_json(self.result_path, {**self.settings, "finished": False})

    def _check(self, found: Mapping[str, Any]) -> None:
        for key, value in self.settings.items():
            if key not in INCIDENTAL and found.get(key) != value:
                raise UserError(
                    f"{self.result_path} is of another evaluation: its {key} is {found.get(key)!r}, not {value!r}. "
                    "Choose another --output_dir"
                )

    def _read_rows(self) -> None:
        """What is there up to the last whole batch. A kill may have cut the last line short."""
        if not self.samples_path.exists():
            return
        lines = self.samples_path.read_text().split("\n")[:-1]
        whole = len(lines)
        if whole < self.settings["n"] * self.settings["samples"]:
            whole -= whole % self.batch_size
            partial = self.samples_path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in lines[:whole]))
            partial.replace(self.samples_path)
        self.rows = [Row(**json.loads(line)) for line in lines[:whole]]

    def add(self, rows: list[Row]) -> None:
        """Append a batch."""
        with open(self.samples_path, "a") as file:
            file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        self.rows += rows

    def finish(self, evaluation: Evaluation) -> dict[str, Any]:
        """Write the result, and return it."""
        result = {**self.settings, **evaluation.to_dict(), "finished": True}
        write_json(self.result_path, result)
        return json.loads(json.dumps(result, default=str))
