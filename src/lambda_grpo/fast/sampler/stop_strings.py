"""Completions that end at a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StopStringCriteria

OUTSIDE = torch.iinfo(torch.long).max  # a token id beyond any vocabulary


class StopStrings:
    """Detects stop strings at the end of completions; a stop string may begin and end within tokens.

    Uses transformers' own criterion, which also handles characters whose bytes are separate tokens. Unlike in
    `generate`, it reads only the completion, so that a stop string can't begin in the prompt.

    Raises:
        ValueError: no token of the vocabulary can end one of the strings.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any):
        self.strings = list(strings)
        self._criterion = StopStringCriteria(tokenizer, self.strings)
        self.window: int = self._criterion.maximum_token_len  # greatest number of tokens that a stop string spans

    def __call__(self, completion_ids: Tensor) -> Tensor:
        """(B, t) the tokens so far, or the last `window` of them -> (B,) whether the last one completes a stop string.

        Ids beyond the vocabulary are part of no stop string.
        """
        return self._criterion(completion_ids, None)

    def ended(self, completions: Sequence[Sequence[int]]) -> list[bool]:
        """Whether the last token of each completion completes a stop string."""
        tails = [list(ids[-self.window :]) for ids in completions]
        padded = torch.tensor([[*[OUTSIDE] * (self.window - len(tail)), *tail] for tail in tails])
        found: list[bool] = self(padded).tolist()
        return found

    def truncate(self, completions: Sequence[list[int]]) -> list[list[int]]:
        """Completions up to and including the first token that completes a stop string."""
        longest = max(map(len, completions))
        padded = torch.tensor([[*ids, *[OUTSIDE] * (longest - len(ids))] for ids in completions])
        lengths = torch.full((len(padded),), longest)
        for end in range(longest, 0, -1):
            lengths[self(padded[:, max(0, end - self.window) : end])] = end
        return [ids[:length] for ids, length in zip(completions, lengths.tolist(), strict=True)]


class StopAtStrings(StoppingCriteria):
    """Ends the sequences of `generate` at stop strings.

    Args:
        prompt_length: length of the padded prompts, where no stop string may begin.
    """

    def __init__(self, stops: StopStrings, prompt_length: int):
        self.stops, self.prompt_length = stops, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return self.stops(input_ids[:, self.prompt_length :])
