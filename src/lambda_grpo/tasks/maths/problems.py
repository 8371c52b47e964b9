"""Maths problems with reference answers as a task, from a data set on the hub or a local JSON or Parquet file."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.grading import Grade, GradingError, check_installed, grade_math, same_answers
from lambda_grpo.grading.extraction import reference_answer
from lambda_grpo.tasks.base import Example
from lambda_grpo.tasks.maths.columns import (
    ID_COLUMNS,
    QUESTION_COLUMNS,
    SOLUTION_COLUMNS,
    answer_at,
    find_columns,
    first_filled,
    question_at,
    value_at,
)

SUFFIXES = (".jsonl", ".json", ".parquet")
MAX_LISTED = 5  # how many of the rows without an answer the warning lists


class MathProblems:
    """Problems graded by `grade_math`. Every completion of a problem without a reference answer counts as wrong.

    Args:
        name: of the task.
        rows: of the data set, one per problem.
        columns: the columns that hold question and answer (see `Columns`).
        source: where the rows are from, recorded in the result.

    Raises:
        UserError: a row has no question, no row has an answer, or math-verify isn't installed.
    """

    def __init__(
        self, name: str, rows: Sequence[Mapping[str, Any]], columns: tuple[str, str | None], source: Mapping[str, Any]
    ):
        check_installed()
        self.name, self.source = name, dict(source)
        self._examples = [_example(name, i, row, columns) for i, row in enumerate(rows)]
        unknown = [i for i, example in enumerate(self._examples) if example.answer is None]
        if len(unknown) == len(rows):
            raise _incomplete(name, 0, rows[0], columns)
        if unknown:
            numbers = ", ".join(map(str, unknown[:MAX_LISTED])) + (", …" if len(unknown) > MAX_LISTED else "")
            warn_once(
                f"{name}: {len(unknown)} of {len(rows)} problems have no reference answer (counted from 0: {numbers}). "
                "They count as wrong"
            )
            self.source["without_answer"] = len(unknown)

    def without(self, indices: Collection[int]) -> MathProblems:
        """The problems without those at some indices. Raises UserError if none is left."""
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
            return grade_math(completions, [example.answer or "" for example in examples], allow_empty=True)
        except GradingError as error:
            error.add_note(f"This is problem {examples[error.index].metadata['id']} of task {self.name!r}.")
            raise

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the answers of each pair are equivalent, by the rules that grading uses."""
        return same_answers(pairs)


def is_file_of_problems(name: str) -> bool:
    """Whether a task's name is that of a file of problems."""
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
    except (ValueError, RecursionError, pa.ArrowException) as error:  # from JSON, UTF-8 and Parquet
        raise UserError(f"can't read {path}: {' '.join(str(error).split())}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no problems: need a mapping with question and answer for each")
    return rows


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn the errors of `datasets` while it loads `name` into a UserError of one line."""
    from datasets.exceptions import DatasetsError
    from datasets.utils.logging import CRITICAL, set_verbosity

    set_verbosity(CRITICAL)  # the errors that it logs are raised, too
    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error)  # "an error occurred while generating the dataset" has the reason there
        raise UserError(f"can't load {name}: {' '.join(reason.split())}") from error


def load_split(name: str, *arguments: Any, **settings: Any) -> Any:
    """`datasets.load_dataset`, with the errors of `loading`."""
    from datasets import load_dataset

    with loading(name):
        return load_dataset(*arguments, **settings)


def local_problems(
    path: str, *, size: int | None = None, question: str | None = None, answer: str | None = None
) -> MathProblems:
    """The first `size` problems of a local file; by default all."""
    rows = read_rows(path)
    columns = find_columns(path, rows, question, answer)
    return MathProblems(Path(path).stem, rows[:size], columns, {"data": str(path), "rows": len(rows)})


def worked_examples(name: str, rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """The first `count` problems with their solutions, for few-shot prompts.

    Raises:
        UserError: there are too few, or they have no solutions.
    """
    if len(rows) < count:
        raise UserError(f"--shots {count} needs as many worked examples, {name} has {len(rows)}")
    solution = first_filled(rows, SOLUTION_COLUMNS)
    if first_filled(rows, QUESTION_COLUMNS) is None or solution is None:
        raise UserError(f"{name} needs columns problem and solution for worked examples, it has {', '.join(rows[0])}")
    question = find_columns(name, rows, answer=solution).question
    return [(str(question_at(row, question)), str(row[solution])) for row in rows[:count]]


def _example(name: str, number: int, row: Mapping[str, Any], columns: tuple[str, str | None]) -> Example:
    question = question_at(row, columns[0])
    answer = reference_answer(answer_at(name, row, columns[1]))
    if question is None:
        raise _incomplete(name, number, row, columns)
    if not _is_unicode(f"{question}{answer}"):
        raise UserError(f"{name}, row {number}: invalid Unicode (half of a surrogate pair): got {question!r}")
    identity = next((row[column] for column in ID_COLUMNS if row.get(column) is not None), number)
    written = [text for column in SOLUTION_COLUMNS if isinstance(text := row.get(column), str) and text != answer]
    return Example(question, answer or None, {"id": identity}, solution=written[0] if written else None)


def _incomplete(name: str, number: int, row: Mapping[str, Any], columns: tuple[str, str | None]) -> UserError:
    question, answer = (value_at(row, column.rpartition("+")[2]) if column else None for column in columns)
    return UserError(
        f"{name}, row {number}: need a question and an answer, got {question!r} and {answer!r}: name their columns by "
        "--question_column and --answer_column"
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
