"""The samples of a batch between generation and the loss, with their rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One completion, with the data set example that it belongs to.

    completion: text, or messages if the prompt is a conversation.
    logprobs: from the sampling engine, if it returns them.
    logged: values that reward functions have logged for it, by column.
    """

    example: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    logprobs: list[float] | None
    logged: dict[str, Any]


@dataclass(frozen=True)
class ScoredSamples:
    """This rank's samples, and all ranks' (N, F) rewards by function: before and after correction and refilling."""

    samples: list[Sample]
    policy_rewards: Tensor
    rewards: Tensor

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The samples' data set examples."""
        return [sample.example for sample in self.samples]

    @property
    def logged(self) -> dict[str, list[Any]]:
        """Values that reward functions have logged, by column."""
        columns = {column for sample in self.samples for column in sample.logged}
        return {column: [sample.logged.get(column) for sample in self.samples] for column in columns}

    @property
    def generated(self) -> tuple[Any, ...]:
        """The samples in the form of TRL's `_generate` for a single turn."""
        has_logprobs = all(sample.logprobs is not None for sample in self.samples)
        return (
            [sample.prompt_ids for sample in self.samples],
            [sample.completion_ids for sample in self.samples],
            None,
            [sample.completion for sample in self.samples],
            [sample.logprobs for sample in self.samples] if has_logprobs else None,
            {},
            None,
            [],
        )
