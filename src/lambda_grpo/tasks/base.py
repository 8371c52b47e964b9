"""What a task is: examples by index, and a grade for a completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lambda_grpo.errors import UserError, describe_failure, user_frames
from lambda_grpo.grading import Grade


@dataclass(frozen=True)
class Example:
    """One verifiable problem.

    `prompt` is what the policy reads, `answer` the reference that a person would compare with (None only where
    the grader needs no single reference), `metadata` whatever else the grader needs, `solution` a completion that is
    right, where there is one.
    """

    prompt: str
    answer: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    solution: str | None = None


@runtime_checkable
class Task(Protocol):
    """A set of verifiable problems. Deterministic: the same index gives the same example, always.

    Three methods more are used where a task has them: `extract(completion) -> str | None` finds the answer in a
    completion, so that a majority of several can be counted; `grade_all(completions, examples) -> list[Grade]` grades
    many at once; `same_answers(pairs) -> list[bool]` says which extracted answers are the same, for the majority.
    """

    name: str

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example `index`, 0 <= index < len(self)."""
        ...

    def grade(self, completion: str, example: Example) -> float:
        """Score in [0, 1]; 1.0 is right. Whatever this raises stops the run: a broken grader isn't a wrong answer."""
        ...


def grade_all(task: Task, completions: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
    """The grade of each completion. What the task's grader raises says which one it came from.

    Raises:
        UserError: from what a grader of the user's own raised.
    """
    if hasattr(task, "grade_all"):
        grades: list[Grade] = task.grade_all(completions, examples)
        return grades
    extract = getattr(task, "extract", None)
    grades = []
    for completion, example in zip(completions, examples, strict=True):
        try:
            extracted = extract(completion) if extract else None
            grades.append(Grade(task.grade(completion, example), extracted, vote=extracted))
        except Exception as error:
            where = f"grader of task {task.name!r} failed on prompt {example.prompt!r}, completion {completion!r}"
            if user_frames(error) and not isinstance(error, UserError):
                raise UserError(f"the {where}: {describe_failure(error)}") from error
            error.add_note(f"The {where}")
            raise
    return grades
