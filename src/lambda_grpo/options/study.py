"""Options of `lambda-grpo compare`: the keys of a study that a recipe doesn't have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from lambda_grpo.options.option import option


@dataclass
class StudyOptions:
    """Study."""

    objectives: list[str] | dict[str, Any] = option(
        ["grpo", "dapo", "dr_grpo", "lambda_grpo"],
        "Two or more, also module:NAME. In a file also a mapping of names to the recipe keys of that arm.",
    )
    against: str | None = option(None, "The objective to compare the others with. Default: the first.")
    tasks: list[str] | None = option(None, "One or more; on a command line --task. Default: the recipe's.")
    seeds: int | list[int] = option(5, "Number of seeds, or in a file a list of them.")
    tuning_seeds: int | list[int] = option(2, "Other seeds, to choose the learning rate with.")
    learning_rates: list[Annotated[float, Ge(1e-12), Le(1000)]] | None = option(
        None,
        "Three or more, of which each objective gets its best one. Default: the recipe's, a third of it, and three "
        "times that.",
    )
    endpoint: Literal["accuracy", "completion_length_mean", "entropy"] = option("accuracy", "The compared quantity.")
    target_accuracy: Annotated[float, Ge(0), Le(1)] = option(
        0.9, "Accuracy of the training samples; the number of tokens to reach it is reported."
    )
    keep_checkpoints: bool = option(
        False,
        "Keep checkpoints and models of finished runs; otherwise one checkpoint of unfinished ones. Only in a file.",
    )
