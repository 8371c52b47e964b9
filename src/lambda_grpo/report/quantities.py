"""What a study's figures are called, and how their numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lambda_grpo.runs.study_record import RunResult

NONE = "–"  # a missing number


@dataclass(frozen=True)
class Quantity:
    """The label, unit and number format of a figure."""

    label: str
    unit: str
    digits: int
    scale: float = 1

    @property
    def titled(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def difference_unit(self) -> str:
        return "points" if self.unit == "%" else self.unit

    def number(self, value: float | None) -> str:
        return NONE if value is None else _minus(f"{self.scale * value:z,.{self.digits}f}")

    def interval(self, ci95: Sequence[float] | None) -> str:
        return NONE if ci95 is None else " – ".join(map(self.number, ci95))

    def difference(self, value: float | None, sign: str = "+") -> str:
        """A difference, with one more digit than the figures."""
        return NONE if value is None else _minus(f"{self.scale * value:{sign}z,.{self.digits + 1}f}")

    def difference_interval(self, ci95: Sequence[float] | None) -> str:
        return NONE if ci95 is None else " to ".join(map(self.difference, ci95))


ACCURACY = Quantity("accuracy", "%", 1, scale=100)
AREA = Quantity("mean accuracy over the run", "%", 1, scale=100)
FULL_MARKS = Quantity("full marks", "%", 1, scale=100)  # the accuracy where answers are graded
GRADE = Quantity("mean grade", "", 3)
OTHERS = {
    "completion_length_mean": Quantity("length", "tokens", 1),
    "entropy": Quantity("entropy", "nats", 3),
    "lambda": Quantity("λ at the end", "", 3),
    "num_tokens": Quantity("prompts and completions", "thousand tokens", 1, scale=1e-3),
    "clip_fraction": Quantity("ratios clipped", "% of tokens", 2, scale=100),
    "grad_clip_fraction": Quantity("gradient clipped", "% of steps", 1, scale=100),
}
TO_TARGET = Quantity("tokens to the target", "thousand tokens", 1, scale=1e-3)


def quantities(*, graded: bool) -> dict[str, Quantity]:
    """The figures of an objective on a task."""
    accuracy = {"accuracy": FULL_MARKS, "score_mean": GRADE} if graded else {"accuracy": ACCURACY}
    return {**accuracy, "accuracy_area": AREA, **OTHERS, "tokens_to_target": TO_TARGET}


def is_graded(runs: Sequence[RunResult]) -> bool:
    """Whether answers got grades other than 0 and 1, so that most aren't simply right or wrong."""
    return any(run.get("graded", False) for run in runs)


def _minus(number: str) -> str:
    return number.replace("-", "−")
