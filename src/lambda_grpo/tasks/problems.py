"""Maths problems with a reference answer, as a task: from a data set on the hub, or a local JSONL or Parquet file."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.tasks.base import Example, Grade
from lambda_grpo.tasks.graders import GradingError, check_installed, grade_math
from lambda_grpo.tasks.graders.extraction import reference_answer

SUFFIXES = (".jsonl", ".json", ".parquet")
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
        columns: (question, answer): which keys hold them, `outer.inner` for a key inside another one's mapping. A
            question may be a text, or messages that end with it. An answer may be a number, a text, a text with
            GSM8K's `####` before the answer, or a list of several answers.
        source: where the rows are from, for the result.

    Raises:
        UserError: a row has no question or no answer, or math-verify isn't installed.
    """

    def __init__(
        self, name: str, rows: Sequence[Mapping[str, Any]], columns: tuple[str, str], source: Mapping[str, Any]
    ):
        check_installed()
        self.name, self.source = name, dict(source)
        self._examples = [_example(name, i, row, columns) for i, row in enumerate(rows)]

    def without(self, indices: Collection[int]) -> MathProblems:
        """The problems but for some. Raises UserError if none is left."""
        if len(indices) == len(self):
            raise UserError(f"task {self.name!r}: all of its {len(self)} problems would be left out")
        others = copy.copy(self)
        others._examples = [example for i, example in enumerate(self._examples) if i not in indices]
        return others

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def grade(self, completion: str, example: Example) -> float:
        return self.grade_all([completion], [example])[0].score

    def grade_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
        try:
            return grade_math(completions, [str(example.answer) for example in examples])
        except GradingError as error:
            error.add_note(f"This is problem {examples[error.number].metadata['id']} of task {self.name!r}.")
            raise


def is_file_of_problems(name: str) -> bool:
    """Whether a task is named by a file."""
    return Path(name).suffix.lower() in SUFFIXES


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a local JSONL, JSON or Parquet file.

    Raises:
        UserError: there is no such file, or it can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_file_of_problems(path):
        raise UserError(f"can't read {path}: need a file that ends with {', '.join(SUFFIXES)}")
    if not Path(path).is_file():
        raise UserError(f"{path} is a folder" if Path(path).is_dir() else f"no file {path}")
    try:
        if Path(path).suffix.lower() == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            text = Path(path).read_text(encoding="utf-8-sig")
            is_list = Path(path).suffix.lower() == ".json" and text.lstrip().startswith("[")
            rows = json.loads(text) if is_list else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError, pa.ArrowException) as error:  # what JSON, UTF-8 and Parquet raise
        raise UserError(f"can't read {path}: {' '.join(str(error).split())}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no problems: need a mapping with question and answer for each")
    return rows


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Tell in one line of a UserError, which calls it `name`, what keeps `datasets` from loading something."""
    from datasets.exceptions import DatasetsError
    from datasets.utils.logging import CRITICAL, set_verbosity

    set_verbosity(CRITICAL)  # what it would log as an error it raises, too
    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error)  # an error "occurred while generating the dataset" has its cause
        raise UserError(f"can't load {name}: {' '.join(reason.split())}") from error


def load_split(name: str, *arguments: Any, **settings: Any) -> Any:
    """`datasets.load_dataset`, with errors as of `loading`."""
    from datasets import load_dataset

    with loading(name):
        return load_dataset(*arguments, **settings)


def find_columns(name: str, row: Mapping[str, Any], question: str | None, answer: str | None) -> tuple[str, str]:
    """Which columns hold question and answer: those that are given, or the first known ones.

    Raises:
        UserError: there is none.
    """
    found = []
    for what, given, known in (("question", question, QUESTION_COLUMNS), ("answer", answer, ANSWER_COLUMNS)):
        column = given or next((column for column in known if column in row), None)
        if column is None or (column not in row and value_at(row, column) is None):
            raise UserError(
                f"{name} has no column {column or ' or '.join(known)}: name the one with the {what}s by "
                f"--{what}_column, it has {', '.join(row)}"
            )
        found.append(column)
    return found[0], found[1]


def local_problems(
    path: str, *, size: int | None = None, question: str | None = None, answer: str | None = None
) -> MathProblems:
    """The first `size` problems of a local file, all by default."""
    rows = read_rows(path)
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


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """What a row has in a column; None where it lacks it. `outer.inner` is a key inside another one's mapping."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    return value_at(row[outer], inner) if inner and isinstance(row.get(outer), Mapping) else None


def answer_at(name: str, row: Mapping[str, Any], column: str) -> Any:
    """The reference in a column. Raises UserError, which names the data, if it is of a kind that no answer is."""
    value = value_at(row, column)
    if isinstance(value, (Mapping, bytes)):
        raise UserError(
            f"{name}: an answer must be text, a number or a list of them, got {value!r}: name another column "
            "(outer.inner for one inside)"
        )
    return value


def question_at(row: Mapping[str, Any], column: str) -> Any:
    """The problem in a column: its text; of messages, what the user says last."""
    value = value_at(row, column)
    if isinstance(value, list):
        said = [turn.get("content") for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
        return said[-1] if said else None
    return value


def _example(name: str, number: int, row: Mapping[str, Any], columns: tuple[str, str]) -> Example:
    question, given = question_at(row, columns[0]), answer_at(f"{name}, row {number}", row, columns[1])
    answer = reference_answer(given)
    if not _is_unicode(f"{question}{answer}"):
        raise UserError(f"{name}, row {number}: half of a surrogate pair, which is no text: got {question!r}")
    if not isinstance(question, str) or not question.strip() or not answer:
        raise UserError(f"{name}, row {number}: need a question and an answer, got {question!r} and {given!r}")
    identity = next((row[column] for column in ID_COLUMNS if column in row), number)
    written = [text for column in SOLUTION_COLUMNS if isinstance(text := row.get(column), str) and text != answer]
    return Example(question, answer, {"id": identity}, solution=written[0] if written else None)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
