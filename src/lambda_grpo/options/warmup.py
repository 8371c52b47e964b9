"""Options of `lambda-grpo warmup`: which solutions a model is trained on before reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from lambda_grpo.options.option import option

Style = Literal["worked", "answer"]


@dataclass
class WarmupOptions:
    """Warm-up."""

    tasks: list[str] = option(
        [],
        "Problems with solutions: any of the names that `task` takes in lambda-grpo train. A name may be repeated, for "
        "a larger share of the steps.",
    )
    styles: list[Style] = option(
        ["worked", "answer"],
        "How problems are solved, one style drawn for each: worked, the solution and then the answer, or answer, at "
        "once. A repeated style is drawn more often.",
    )
    ending: str = option("\n#### {answer}", "How a solution states its answer.")
    template: str | None = option(None, "Prompt template, see lambda-grpo eval --help.")
    task_size: Annotated[int, Ge(1)] | None = option(
        None, "Most problems of each task. Default: all of a data set, 4096 of a generated task."
    )
    task_seed: int = option(0, "Seed of generated problems.")
