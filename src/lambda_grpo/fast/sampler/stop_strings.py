"""Completions that end at a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StopStringCriteria

OUTSIDE = torch.iinfo(torch.long).max  # a token id that is part of no stop string


class StopStrings:
    """Whether a completion has just come to one of some texts, which may begin and end within tokens.

    By transformers' own criterion, bytes of a character that are tokens of their own included. It reads the completion
    alone, where `generate` would let a stop string begin in the prompt.

    Raises:
        ValueError: no token of the vocabulary ends one of the texts.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any):
        self.strings = list(strings)
        self._criterion = StopStringCriteria(tokenizer, self.strings)
        self.window: int = self._criterion.maximum_token_len  # tokens; no stop string has more

    def __call__(self, completion_ids: Tensor) -> Tensor:
        """(B, t) the tokens so far, or the last `window` of them -> (B,) whether the last one completes a stop string.

        An id beyond the vocabulary is part of none.
        """
        return self._criterion(completion_ids, None)

    def ends(self, completions: Sequence[Sequence[int]]) -> list[bool]:
        """Whether the last token of each completion completes a stop string."""
        tails = [list(ids[-self.window :]) for ids in completions]
        rows = torch.tensor([[*[OUTSIDE] * (self.window - len(tail)), *tail] for tail in tails])
        found: list[bool] = self(rows).tolist()
        return found

    def cut(self, completions: Sequence[list[int]]) -> list[list[int]]:
        """Completions up to and with the first token that completes a stop string."""
        longest = max(map(len, completions))
        rows = torch.tensor([[*ids, *[OUTSIDE] * (longest - len(ids))] for ids in completions])
        lengths = torch.full((len(rows),), longest)
        for end in range(longest, 0, -1):
            lengths[self(rows[:, max(0, end - self.window) : end])] = end
        return [ids[:length] for ids, length in zip(completions, lengths.tolist(), strict=True)]


class StopAtStrings(StoppingCriteria):
    """Ends the rows of `generate` at stop strings.

    Args:
        prompt_length: of the padded prompts, in which no stop string may begin.
    """

    def __init__(self, stops: StopStrings, prompt_length: int):
        self.stops, self.prompt_length = stops, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return self.stops(input_ids[:, self.prompt_length :])
