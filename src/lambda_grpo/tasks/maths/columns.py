r"""Which columns of a data set of maths problems hold the question and its answer, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.grading.extraction import reference_answer

# How data sets of maths problems name their columns, in the order in which they are looked for
QUESTION_COLUMNS = ("question", "problem", "Question", "Problem", "prompt")
LEAD_COLUMNS = ("context", "body", "Body")  # text that a question goes on from: OlympiadBench, ASDiv, SVAMP
ANSWER_COLUMNS = ("answer", "final_answer", "Answer")
PAIR = ("input", "target")  # MAWPS's, taken where both are there: others have an `input` beside an instruction
BOX_COLUMNS = ("solution", "Solution")  # whose box holds the answer where no column does: MATH, Minerva
SOLUTION_COLUMNS = (*BOX_COLUMNS, "answer")
ID_COLUMNS = ("unique_id", "id", "ID", "question_number", "idx")
EXACT = 2**53  # up to which a float tells each whole number from the next


class Columns(NamedTuple):
    r"""Which columns of a row hold what.

    Attributes:
        question: a text, or messages that end with it; `outer.inner` for a key inside another one's mapping, and
            `Body+Question` for a question in several columns.
        answer: a number, a text, a text with GSM8K's `####` or a `\boxed{}` before the answer, or a list of several
            answers; None where the box of the solution has it.
    """

    question: str
    answer: str | None

    def read(self) -> set[str]:
        """Names of all columns that may be read, the outer one of `outer.inner` too."""
        names = {*self.question.split("+"), self.question, *BOX_COLUMNS, *([self.answer] if self.answer else [])}
        return names | {name.partition(".")[0] for name in names}


def find_columns(
    name: str, rows: Sequence[Mapping[str, Any]], question: str | None = None, answer: str | None = None
) -> Columns:
    """The columns that are given, or the first known ones that hold anything in these rows.

    A known question goes on from the text in a column of `LEAD_COLUMNS`. Without a column of answers the boxes of the
    solutions hold them.

    Raises:
        UserError: there is none.
    """
    if question is None:
        question = _known(rows, QUESTION_COLUMNS, PAIR[0])
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
    found = _known(rows, ANSWER_COLUMNS, PAIR[1])
    if found is None and not any(_boxed_solution(row) for row in rows):
        found = next((column for column in ANSWER_COLUMNS if any(column in row for row in rows)), None)
        if found is None:
            raise _no_column(name, rows, "answer", " or ".join(ANSWER_COLUMNS))
    return Columns(question, found)


def first_filled(rows: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str | None:
    """The first of the known columns that holds anything in these rows."""
    return next((column for column in known if any(row.get(column) not in (None, "", []) for row in rows)), None)


def _known(rows: Sequence[Mapping[str, Any]], known: Sequence[str], of_pair: str) -> str | None:
    return first_filled(rows, known) or (of_pair if all(first_filled(rows, [column]) for column in PAIR) else None)


def _no_column(name: str, rows: Sequence[Mapping[str, Any]], what: str, column: str) -> UserError:
    there = dict.fromkeys(key for row in rows for key in row)
    return UserError(
        f"{name} has no column {column}: name the one with the {what}s by --{what}_column, it has {', '.join(there)}"
    )


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """What a row has in a column; None where it lacks it. `outer.inner` is a key inside another one's mapping."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    return value_at(row[outer], inner) if inner and isinstance(row.get(outer), Mapping) else None


def answer_at(name: str, row: Mapping[str, Any], column: str | None) -> Any:
    """A row's answer: what its column holds, or else its solution up to the box; None where neither has one.

    Raises:
        UserError: it is of a kind that no answer is; the message names the data.
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
        warn_once(f"{name}: some rows have no answer: it is taken from the box in their solution")
    return solution


def _exact(value: Any) -> Any:
    """27 for the 27.0 of a column in which others have decimals; of a list the answers that aren't empty."""
    if isinstance(value, list):
        return [_exact(part) for part in value if reference_answer(part)]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < EXACT
    return int(value) if is_whole else value


def _boxed_solution(row: Mapping[str, Any]) -> str | None:
    solutions = [text for column in BOX_COLUMNS if isinstance(text := row.get(column), str)]
    return next((text for text in solutions if "\\boxed" in text and reference_answer(text)), None)


def question_at(row: Mapping[str, Any], column: str) -> str | None:
    """The problem in a column: its text; of messages, what the user says last; None where there is none.

    Of several columns (`Body+Question`) their texts one after the other; the last one has to be there.
    """
    *leads, last = _parts(row, column)
    value = value_at(row, last)
    if isinstance(value, list):
        said = [turn.get("content") for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
        value = said[-1] if said else None
    if not isinstance(value, str) or not value.strip():
        return None
    before = [text for lead in leads if isinstance(text := value_at(row, lead), str) and text.strip()]
    return " ".join([*map(_sentence, before), value.strip()]) if before else value


def _parts(row: Mapping[str, Any], column: str) -> list[str]:
    return [column] if column in row else column.split("+")


def _sentence(text: str) -> str:
    """With a full stop, which SVAMP leaves out at the end of a body."""
    text = text.strip()
    return f"{text}." if text[-1].isalnum() else text
