"""Samples on their way from the policy to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One completion with the row of the data set that it answers.

    completion: text, or messages where the prompt is a conversation.
    logprobs: of the sampling engine, where it gives them.
    logged: what reward functions have logged for it, by column.
    """

    example: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    logprobs: list[float] | None
    logged: dict[str, Any]


@dataclass(frozen=True)
class ScoredSamples:
    """This rank's samples, and the (N, F) rewards of all ranks' by function: of the policy's own, and as corrected."""

    samples: list[Sample]
    policy_rewards: Tensor
    rewards: Tensor

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The rows of the data set that the samples answer."""
        return [sample.example for sample in self.samples]

    @property
    def logged(self) -> dict[str, list[Any]]:
        """What reward functions have logged, by column."""
        columns = {column for sample in self.samples for column in sample.logged}
        return {column: [sample.logged.get(column) for sample in self.samples] for column in columns}

    @property
    def generated(self) -> tuple[Any, ...]:
        """What TRL's `_generate` returns of a single turn."""
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
