r"""Finding and reading the question and answer columns of a data set of maths problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.grading.extraction import reference_answer

# Column names of published data sets of maths problems, by precedence
QUESTION_COLUMNS = ("question", "problem", "Question", "Problem", "prompt")
LEAD_COLUMNS = ("context", "body", "Body")  # text that precedes the question: OlympiadBench, ASDiv, SVAMP
ANSWER_COLUMNS = ("answer", "final_answer", "Answer")
INPUT_TARGET = ("input", "target")  # MAWPS; only used together, as other data sets have `input` beside an instruction
BOX_COLUMNS = ("solution", "Solution")  # the box in it holds the answer if no column does: MATH, Minerva
SOLUTION_COLUMNS = (*BOX_COLUMNS, "answer", "formula")  # the last one: ASDiv
ID_COLUMNS = ("unique_id", "id", "ID", "question_number", "idx")
MAX_EXACT = 2**53  # up to here a float represents every integer exactly


class Columns(NamedTuple):
    r"""The names of the question and answer columns.

    Attributes:
        question: a column of texts, or of messages whose last user turn is the question; `outer.inner` for a key of a
            nested mapping, and `Body+Question` for a question in several columns.
        answer: a column of numbers, texts, solutions that end with GSM8K's `####` or a `\boxed{}`, or lists of several
            answers; None if the answer is in the box of the solution.
    """

    question: str
    answer: str | None

    def read(self) -> set[str]:
        """The names of all columns that may be read, including `outer` for `outer.inner`."""
        names = {*self.question.split("+"), self.question, *BOX_COLUMNS, *([self.answer] if self.answer else [])}
        return names | {name.partition(".")[0] for name in names}


def find_columns(
    name: str, rows: Sequence[Mapping[str, Any]], question: str | None = None, answer: str | None = None
) -> Columns:
    """The given columns, or the first known ones that aren't empty in these rows.

    The text of a known question is preceded by that of a column of `LEAD_COLUMNS`. Without an answer column the answers
    are taken from the boxes in the solutions.

    Raises:
        UserError: there is no such column.
    """
    if question is None:
        question = _known(rows, QUESTION_COLUMNS, INPUT_TARGET[0])
        lead = first_filled(rows, LEAD_COLUMNS)
        question = f"{lead}+{question}" if lead and question else question
    else:
        for part in _parts(rows[0], question):
            if not any(part in row or value_at(row, part) is not None for row in rows):
                raise _no_column(name, rows, "question", part)
    if question is None:
        raise _no_column(name, rows, "question", " or ".join(QUESTION_COLUMNS))
    if answer is not None:
        if not any(answer in row or value_at(row, answer) is not None for row in rows):
            raise _no_column(name, rows, "answer", answer)
        return Columns(question, answer)
    found = _known(rows, ANSWER_COLUMNS, INPUT_TARGET[1])
    if found is None and not any(_boxed_solution(row) for row in rows):
        found = next((column for column in ANSWER_COLUMNS if any(column in row for row in rows)), None)
        if found is None:
            raise _no_column(name, rows, "answer", " or ".join(ANSWER_COLUMNS))
    return Columns(question, found)


def first_filled(rows: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str | None:
    """The first of the known columns that isn't empty in all of these rows."""
    return next((column for column in known if any(row.get(column) not in (None, "", []) for row in rows)), None)


def _known(rows: Sequence[Mapping[str, Any]], known: Sequence[str], of_pair: str) -> str | None:
    return first_filled(rows, known) or (
        of_pair if all(first_filled(rows, [column]) for column in INPUT_TARGET) else None
    )


def _no_column(name: str, rows: Sequence[Mapping[str, Any]], what: str, column: str) -> UserError:
    there = dict.fromkeys(key for row in rows for key in row)
    return UserError(
        f"{name} has no column {column}: name the one with the {what}s by --{what}_column, it has {', '.join(there)}"
    )


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """A row's value in a column; None if it has no such column. `outer.inner` is a key of a nested mapping."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    return value_at(row[outer], inner) if inner and isinstance(row.get(outer), Mapping) else None


def answer_at(name: str, row: Mapping[str, Any], column: str | None) -> Any:
    """A row's answer: the value of its column, or its solution if that has a box; None if neither has an answer.

    Raises:
        UserError: the value is of a type that can't be an answer; the message names the data.
    """
    value = None if column is None else value_at(row, column)
    if isinstance(value, (Mapping, bytes)):
        raise UserError(
            f"{name}: an answer must be text, a number or a list of them, got {value!r}: name another column "
            "(outer.inner for one inside)"
        )
    value = _exact(value)
    if reference_answer(value):
        return value
    solution = _boxed_solution(row)
    if solution and column is not None:
        warn_once(f"{name}: some rows have no answer in the column: it is taken from the box in their solution")
    return solution


def _exact(value: Any) -> Any:
    """An integral float as int (a column with decimals has 27.0 for 27); a list without its empty answers."""
    if isinstance(value, list):
        return [_exact(part) for part in value if reference_answer(part)]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT
    return int(value) if is_whole else value


def _boxed_solution(row: Mapping[str, Any]) -> str | None:
    solutions = [text for column in BOX_COLUMNS if isinstance(text := row.get(column), str)]
    return next((text for text in solutions if "\\boxed" in text and reference_answer(text)), None)


def question_at(row: Mapping[str, Any], column: str) -> str | None:
    """The question in a column: its text, or the last user turn of messages; None if there is none.

    Several columns (`Body+Question`) are joined; the last one must not be empty.
    """
    *leads, last = _parts(row, column)
    value = value_at(row, last)
    if isinstance(value, list):
        turns = [turn.get("content") for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
        value = turns[-1] if turns else None
    if not isinstance(value, str) or not value.strip():
        return None
    before = [text for lead in leads if isinstance(text := value_at(row, lead), str) and text.strip()]
    return " ".join([*map(_sentence, before), value.strip()]) if before else value


def _parts(row: Mapping[str, Any], column: str) -> list[str]:
    return [column] if column in row else column.split("+")


def _sentence(text: str) -> str:
    """The text with a full stop at its end, which SVAMP's bodies lack."""
    text = text.strip()
    return f"{text}." if text[-1].isalnum() else text
