"""The `Task` interface: examples by index, and a grade for a completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lambda_grpo.errors import UserError, describe_failure, user_frames
from lambda_grpo.grading import Grade


@dataclass(frozen=True)
class Example:
    """One verifiable problem.

    Attributes:
        prompt: what the policy reads.
        answer: the reference answer; None only if the grader needs no single reference.
        metadata: whatever else the grader needs.
        solution: a correct completion, if the task has one.
    """

    prompt: str
    answer: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    solution: str | None = None


@runtime_checkable
class Task(Protocol):
    """A set of verifiable problems. Deterministic: an index always gives the same example.

    Three further methods are optional: `extract(completion) -> str | None` finds the answer in a completion, for
    majority votes; `grade_all(completions, examples) -> list[Grade]` grades a batch; `same_answers(pairs) ->
    list[bool]` says which extracted answers are equivalent, for majority votes.
    """

    name: str

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example `index`, 0 <= index < len(self)."""
        ...

    def grade(self, completion: str, example: Example) -> float:
        """Score in [0, 1]; 1.0 is correct. An exception stops the run: a broken grader isn't a wrong answer."""
        ...


def grade_all(task: Task, completions: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
    """The grade of each completion. An exception of the task's grader names the prompt and the completion.

    Raises:
        UserError: the grader, if it is the user's own code, raised an exception.
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
