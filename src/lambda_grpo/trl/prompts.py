"""Prompts that are too long: refused, dropped from the data, or cut on the left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from trl.data_utils import is_conversational

from lambda_grpo.errors import UserError

logger = logging.getLogger(__name__)

CHUNK = 1000  # prompts that are tokenised at a time


def room_for_prompts(contexts: list[int | None], max_completion_length: int) -> int | None:
    """Tokens that a model's context leaves for a prompt; None if no context length is known.

    Args:
        contexts: the model's context length, and an engine's limit; None or 0 for one that isn't known.
        max_completion_length: tokens of a completion.

    Raises:
        UserError: there is no room.
    """
    known = [length for length in contexts if length is not None and length > 0]
    if not known:
        return None
    room = min(known) - max_completion_length
    if room < 1:
        raise UserError(
            f"max_completion_length {max_completion_length} leaves no room for a prompt in the model's {min(known)} "
            "positions: lower it"
        )
    return room


class PromptLimit:
    """The maximum prompt length, and the handling of longer prompts.

    A data set is checked before the run, a stream as it is read. Data whose prompts TRL creates later (images,
    environments, a `rollout_func`) aren't checked.

    Args:
        max_length: the configuration's `max_prompt_length`, including the chat template's tokens.
        room: tokens that the model's context leaves, see `room_for_prompts`.
        overflow: "drop", "truncate_left", or None to refuse longer prompts.
        tokenize: prompts -> their ids.
        has_chat_template: whether conversations can be tokenised.
        is_made_later: whether TRL makes the prompts itself.
        batch_prompts: prompts of a training batch.

    Attributes:
        max_tokens: the smaller of `max_length` and `room`; None if there is neither.
        dropped: prompts of a stream that were dropped so far.
    """

    def __init__(
        self,
        accelerator: Any,
        *,
        max_length: int | None,
        room: int | None,
        overflow: str | None,
        tokenize: Callable[[list[Any]], list[list[int]]],
        has_chat_template: bool,
        is_made_later: bool,
        batch_prompts: int,
    ):
        self.accelerator, self.max_length, self.overflow, self._tokenize = accelerator, max_length, overflow, tokenize
        self._has_chat_template, self._is_made_later = has_chat_template, is_made_later
        self._batch_prompts = batch_prompts
        self.max_tokens = min((length for length in (max_length, room) if length is not None), default=None)
        self.dropped = 0

    # -- before the run ----------------------------------------------------------------------------------------------

    def fitting(self, dataset: Any, name: str) -> Any:
        """The rows of a data set whose prompts are kept. `name`: of the data set, in messages.

        Raises:
            UserError: a prompt is too long and `overflow` isn't set, or the remaining prompts don't fill a batch.
        """
        row = next(iter(dataset), None)
        if row is None or self.max_tokens is None:
            return dataset
        if self._is_made_later or "prompt" not in row or {"image", "images"} & {*row}:
            if self.max_length is not None:
                raise UserError(
                    "max_prompt_length is for prompts of text: leave it out with images, environments or a rollout_func"
                )
            return dataset
        if is_conversational({"prompt": row["prompt"]}) and not self._has_chat_template:
            return dataset  # TRL says so
        if isinstance(dataset, IterableDataset):
            return dataset.filter(self._fits) if self.overflow == "drop" else dataset
        too_long = dict(self._too_long(dataset))
        if not too_long:
            return dataset
        index, length = max(too_long.items(), key=lambda item: item[1])
        if self.overflow is None:
            raise UserError(f"row {index} of the {name} data: {self._complaint(dataset[index]['prompt'], length)}")
        if self.accelerator.is_main_process:
            logger.warning(
                "%d of %d prompts of the %s data have more than %d tokens (the longest one %d) and are %s",
                *(len(too_long), len(dataset), name, self.max_tokens, length),
                "dropped" if self.overflow == "drop" else "cut on the left",
            )
        if self.overflow != "drop":
            return dataset
        kept = dataset.select([i for i in range(len(dataset)) if i not in too_long])
        if len(kept) < (self._batch_prompts if name == "training" else 1):
            raise UserError(
                f"{len(kept)} of {len(dataset)} prompts of the {name} data have at most {self.max_tokens} "
                f"tokens, too few for a batch: raise max_prompt_length, or set max_prompt_overflow to truncate_left"
            )
        return kept

    def _too_long(self, dataset: Dataset) -> Iterator[tuple[int, int]]:
        """(row, tokens) of each prompt that is too long."""
        assert self.max_tokens is not None
        # other columns may be images, but a transform may need them
        rows = dataset if dataset.format["type"] == "custom" else dataset.select_columns(["prompt"])
        overhead = len(self._tokenize([rows[0]["prompt"]])[0]) + 16  # what the chat template adds, at most
        for start in range(0, len(rows), CHUNK):
            prompts = list(rows[start : start + CHUNK]["prompt"])
            # a token has a byte or more
            doubtful = [i for i, one in enumerate(prompts) if _bytes(one) + overhead > self.max_tokens]
            tokenized = self._tokenize([prompts[i] for i in doubtful]) if doubtful else []
            for i, ids in zip(doubtful, tokenized, strict=True):
                if len(ids) > self.max_tokens:
                    yield start + i, len(ids)

    def _fits(self, example: dict[str, Any]) -> bool:
        assert self.max_tokens is not None
        fits = len(self._tokenize([example["prompt"]])[0]) <= self.max_tokens
        self.dropped += not fits
        return fits

    def _complaint(self, prompt: Any, length: int) -> str:
        text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content"))
        beside = "" if self.max_tokens == self.max_length else " beside max_completion_length"
        return (
            f"the prompt {text[:60]!r} has {length} tokens, there is room for {self.max_tokens}{beside}. Set "
            "max_prompt_overflow to drop or truncate_left, or leave it out"
        )

    # -- in the run --------------------------------------------------------------------------------------------------

    def limited(
        self, prompts: list[Any], prompt_ids: list[list[int]], metrics: dict[str, list[float]], *, is_stream: bool
    ) -> list[list[int]]:
        """Tokenised prompts within the limit.

        Args:
            metrics: takes in how many were cut or dropped.
            is_stream: whether the data are a stream, of which prompts are dropped as it is read.

        Raises:
            UserError: one is too long, of a stream or of an environment, and isn't to be cut.
        """
        limit, cuts = self.max_tokens, self.overflow == "truncate_left"
        if limit is None:
            return prompt_ids
        is_too_long = [len(ids) > limit for ids in prompt_ids]
        if any(is_too_long) and not cuts:
            index = is_too_long.index(True)
            raise UserError(self._complaint(prompts[index], len(prompt_ids[index])))
        if cuts:
            share = self.accelerator.gather(torch.tensor(is_too_long, device=self.accelerator.device).float()).mean()
            metrics["prompts/truncated_ratio"].append(share.item())
        elif is_stream and self.overflow == "drop":
            metrics["prompts/dropped"].append(self.dropped)
        return [ids[-limit:] for ids in prompt_ids]


def _bytes(prompt: Any) -> int:
    """How many bytes a prompt's text has."""
    if isinstance(prompt, str):
        return len(prompt.encode())
    return sum(len(str(message.get("content")).encode()) + 16 for message in prompt)
