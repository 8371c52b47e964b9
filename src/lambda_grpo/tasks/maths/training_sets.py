"""Training problems: three common data sets, a local file, or any data set with question and answer columns.

Duplicates are removed, and so are problems that occur with different answers (according to the grader).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.grading import grade_math
from lambda_grpo.grading.extraction import reference_answer
from lambda_grpo.tasks.maths.columns import ID_COLUMNS, SOLUTION_COLUMNS, Columns, answer_at, find_columns, question_at
from lambda_grpo.tasks.maths.problems import MathProblems, load_split, read_rows
from lambda_grpo.tasks.maths.templates import TEMPLATES

BATCH = 10_000  # rows that are read at a time
LEFT_OUT = ("incomplete", "duplicates", "contradictory")  # keys of the source with numbers of rows that are left out


@dataclass(frozen=True)
class TrainingSet:
    """A training set on the hub.

    Attributes:
        title: its name in model cards.
        data, config, split: its location.
        columns: of question and answer; None for the first known names.
        template: the prompt template that its problems are wrapped in, which is removed.
        held_out: the benchmark with its test problems.
    """

    title: str
    data: str
    config: str | None = None
    split: str = "train"
    columns: tuple[str, str] | tuple[None, None] = (None, None)
    template: str | None = None
    held_out: str | None = None


TRAINING_SETS: dict[str, TrainingSet] = {
    "gsm8k": TrainingSet("GSM8K, train", "openai/gsm8k", "main", held_out="gsm8k"),
    "math": TrainingSet("MATH without MATH-500", "rasbt/math_full_minus_math500", held_out="math500"),
    "dapo_math_17k": TrainingSet(
        "DAPO-Math-17k",
        "BytedTsinghua-SIA/DAPO-Math-17k",
        columns=("prompt", "reward_model.ground_truth"),
        template="dapo",
    ),
}


def load_training_set(name: str, *, size: int | None = None) -> MathProblems:
    """The first `size` problems of one of `TRAINING_SETS`; by default all. Raises UserError if it can't be loaded."""
    known = TRAINING_SETS[name]
    question, answer = known.columns
    task = hub_training_set(
        name, known.data, known.config, known.split, size=size, question=question, answer=answer, wrapped=known.template
    )
    task.source["title"] = known.title
    return task


def hub_training_set(
    name: str,
    data: str,
    config: str | None,
    split: str,
    *,
    size: int | None = None,
    question: str | None = None,
    answer: str | None = None,
    wrapped: str | None = None,
) -> MathProblems:
    """Problems from a data set on the hub or in a local folder, loaded by `datasets.load_dataset`.

    Args:
        name: of the task.
        size: how many problems, from the first; by default all.
        question, answer: column names, `outer.inner` for a nested key; by default the first known name found.
        wrapped: the prompt template that the problems are wrapped in, which is removed.

    Raises:
        UserError: it can't be loaded, lacks the columns, or has no problem with a unique answer.
    """
    loaded = load_split(data, data, config, split=split)
    if len(loaded) == 0:
        raise UserError(f"{data}, split {split!r}, holds no problems")
    first = loaded[0]
    columns = find_columns(data, [first], question, answer)
    kept = [column for column in first if column in {*columns.read(), *ID_COLUMNS, *SOLUTION_COLUMNS}]
    source = {"data": data, "config": config, "split": split, "files": sorted(loaded.info.download_checksums or {})}
    return _problems(name, _rows(loaded.select_columns(kept)), len(loaded), columns, source, size, wrapped)


def local_training_set(
    path: str, *, size: int | None = None, question: str | None = None, answer: str | None = None
) -> MathProblems:
    """Problems from a local JSONL, JSON or Parquet file; arguments and errors as in `hub_training_set`."""
    rows = read_rows(path)
    columns = find_columns(path, rows, question, answer)
    return _problems(Path(path).stem, rows, len(rows), columns, {"data": str(path)}, size, None)


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a data set, read as Arrow tables for speed: DAPO-Math-17k has each problem a hundred times."""
    for table in dataset.with_format("arrow").iter(batch_size=BATCH):
        yield from table.to_pylist()


def _problems(
    name: str,
    rows: Iterable[dict[str, Any]],
    count: int,
    columns: Columns,
    source: Mapping[str, Any],
    size: int | None,
    wrapped: str | None,
) -> MathProblems:
    """The distinct problems with a unique answer. The source records the number of rows and of removed ones."""
    found: dict[str, dict[str, Any]] = {}
    answers: dict[str, str] = {}
    differing: list[tuple[str, str]] = []  # (problem, another answer than its first one, as text)
    incomplete = 0
    for row in rows:
        question, given = question_at(row, columns.question), answer_at(name, row, columns.answer)
        answer = reference_answer(given)
        if question is None or not answer:
            incomplete += 1
            continue
        if wrapped is not None:
            unwrapped = TEMPLATES[wrapped].unwrap(question)
            if unwrapped == question:
                warn_once(f"{name}: not all problems are wrapped in template {wrapped!r}: the others are unchanged")
            question = unwrapped
        key = " ".join(question.split())
        if key not in found:
            found[key], answers[key] = {**row, columns.question: question}, answer
        elif answers[key] != answer:
            differing.append((key, answer))
    if incomplete == count:
        where = f"columns {columns.question} and {columns.answer or 'solution (its box)'}"
        raise UserError(f"{name}: no row has both a question and an answer in {where}")
    if incomplete:
        warn_once(f"{name}: {incomplete} of {count} rows have no question or no answer, and are left out")
    contradictory = set()
    if differing:  # otherwise the grader needn't start, which takes seconds
        pairs = list(dict.fromkeys(differing))
        grades = grade_math([rf"\boxed{{{answer}}}" for _, answer in pairs], [answers[key] for key, _ in pairs])
        contradictory = {key for (key, _), grade in zip(pairs, grades, strict=True) if not grade.correct}
    problems = [row for key, row in found.items() if key not in contradictory]
    if not problems:
        raise UserError(f"{name} has no problem with a unique answer: each one occurs with different answers")
    left_out = (incomplete, count - incomplete - len(found), len(contradictory))
    return MathProblems(
        name, problems[:size], columns, {**source, "rows": count, **dict(zip(LEFT_OUT, left_out, strict=True))}
    )
