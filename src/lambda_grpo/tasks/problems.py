"""Maths problems with a reference answer, as a task: from a data set on the hub, or a local JSONL or Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.tasks.base import Example, Grade
from lambda_grpo.tasks.graders import grade_math
from lambda_grpo.tasks.graders.extraction import reference_answer

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
# How data sets of maths problems name their columns, in the order in which they are looked for
QUESTION_COLUMNS = ("question", "problem", "Question", "Problem", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "Answer")
SOLUTION_COLUMNS = ("solution", "Solution", "answer")
ID_COLUMNS = ("unique_id", "id", "ID", "question_number")


class MathProblems:
    """Problems graded by `grade_math`.

    Args:
        name: of the task.
        rows: a mapping for each problem.
        columns: (question, answer): which keys hold them. An answer may be a number, a text, a text with GSM8K's
            `####` before the answer, or a list of several answers.
        source: where the rows are from, for the result.

    Raises:
        UserError: a row has no question or no answer.
    """

    def __init__(
        self, name: str, rows: Sequence[Mapping[str, Any]], columns: tuple[str, str], source: Mapping[str, Any]
    ):
        self.name, self.source = name, dict(source)
        self._examples = [_example(name, i, row, columns) for i, row in enumerate(rows)]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def grade(self, completion: str, example: Example) -> float:
        return self.grade_all([completion], [example])[0].score

    def grade_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
        try:
            return grade_math(completions, [example.answer or "" for example in examples])
        except Exception as error:
            ids = ", ".join(str(example.metadata["id"]) for example in examples[:3])
            error.add_note(f"Task {self.name!r}, problems {ids}{' …' if len(examples) > 3 else ''}")
            raise


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a local JSONL, JSON or Parquet file, as `datasets` reads it.

    Raises:
        UserError: there is no such file, or it can't be read.
    """
    kind = FORMATS.get(Path(path).suffix)
    if kind is None:
        raise UserError(f"can't read {path}: need a file that ends with {', '.join(FORMATS)}")
    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    if Path(path).stat().st_size == 0:  # `datasets` fails on it in a way of its own
        raise UserError(f"{path} holds no problems")
    return list(load_split(str(path), kind, data_files=str(path), split="train"))


def load_split(name: str, *arguments: Any, **settings: Any) -> Any:
    """`datasets.load_dataset`, where what keeps it from loading is one line of a UserError that calls it `name`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from datasets.utils.logging import CRITICAL, set_verbosity

    set_verbosity(CRITICAL)  # what it would log as an error it raises, too
    try:
        return load_dataset(*arguments, **settings)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error)
        raise UserError(f"can't load {name}: {' '.join(reason.split())}") from error


def find_columns(name: str, row: Mapping[str, Any], question: str | None, answer: str | None) -> tuple[str, str]:
    """Which columns hold question and answer: those that are given, or the first known ones.

    Raises:
        UserError: there is none.
    """
    found = []
    for what, given, known in (("question", question, QUESTION_COLUMNS), ("answer", answer, ANSWER_COLUMNS)):
        column = given or next((column for column in known if column in row), None)
        if column is None or column not in row:
            raise UserError(
                f"{name} has no column {column or ' or '.join(known)}: name the one with the {what}s by "
                f"--{what}_column, it has {', '.join(row)}"
            )
        found.append(column)
    return found[0], found[1]


def local_problems(path: str, *, size: int | None, question: str | None, answer: str | None) -> MathProblems:
    """The first `size` problems of a local file, all by default."""
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} holds no problems")
    columns = find_columns(path, rows[0], question, answer)
    return MathProblems(Path(path).stem, rows[:size], columns, {"data": str(path), "rows": len(rows)})


def worked_examples(name: str, rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """The first `count` problems with their solutions, to stand before a problem that is put.

    Raises:
        UserError: there are fewer, or they have no solutions.
    """
    if len(rows) < count:
        raise UserError(f"--shots {count} needs as many worked examples, {name} has {len(rows)}")
    question, solution = (
        next((column for column in known if column in rows[0]), None) for known in (QUESTION_COLUMNS, SOLUTION_COLUMNS)
    )
    if question is None or solution is None:
        raise UserError(f"{name} needs columns problem and solution for worked examples, it has {', '.join(rows[0])}")
    return [(str(row[question]), str(row[solution])) for row in rows[:count]]


def _example(name: str, number: int, row: Mapping[str, Any], columns: tuple[str, str]) -> Example:
    question, given = row[columns[0]], row[columns[1]]
    parts = [str(part).strip().strip("$").strip() for part in (given if isinstance(given, list) else [given])]
    answer = reference_answer(", ".join(parts))
    if not isinstance(question, str) or not question.strip() or given is None or not answer.strip():
        raise UserError(f"{name}, row {number}: need a question and an answer, got {question!r} and {given!r}")
    identity = next((row[column] for column in ID_COLUMNS if column in row), number)
    return Example(prompt=question, answer=answer, metadata={"id": identity})
