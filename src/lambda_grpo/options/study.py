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
    learning_rates: list[Annotated[float, Ge(1e-12), Le(1000)]] | None = option(
        None,
        "Each objective runs at all of them and is compared at its best one. Default: the recipe's, a third of it, and "
        "three times that.",
    )
    more_rates: Annotated[int, Ge(0)] = option(
        2, "While the best rate of an objective is its lowest or highest, so many are added beyond it."
    )
    endpoint: Literal["accuracy", "accuracy_area", "tokens_to_target", "completion_length_mean", "entropy"] = option(
        "accuracy",
        "The compared quantity. accuracy_area: mean accuracy over the evaluations during training (eval_every).",
    )
    target_accuracy: Annotated[float, Ge(0), Le(1)] = option(
        0.9, "Accuracy of the training samples; tokens_to_target is the number of tokens to reach it."
    )
    keep_runs: bool = option(
        True, "Keep the directories of finished runs; otherwise their figures and curves only. Only in a file."
    )
    keep_checkpoints: bool = option(
        False,
        "Keep checkpoints and models of finished runs; otherwise one checkpoint of unfinished ones. Only in a file.",
    )
