"""What a task is: examples by index, and a verdict on a completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


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
    """A set of verifiable problems. Deterministic: the same index gives the same example, always."""

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


def grade(task: Task, completion: str, example: Example) -> float:
    """`task.grade`, whose exceptions say which completion they came from."""
    try:
        return task.grade(completion, example)
    except Exception as error:
        error.add_note(
            f"The grader of task {task.name!r} failed on prompt {example.prompt!r}, completion {completion!r}"
        )
        raise
