"""Fresh prompts for dynamic sampling, from separate passes over the data set that can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset

from lambda_grpo.objective.lambda_file import read_state

ROLLOUT_STATE_FILE = "rollout_state.json"


class FreshPrompts:
    """Passes over a data set that are separate from the training's, which therefore keeps its order.

    They are the same on every rank: which examples come next depends only on the seed and on those taken before.

    Args:
        dataset: the training data; a stream is read from its start again when a run is resumed.
        seed: of the order, which differs between passes.
        shuffle: False for the data set's own order, for example a curriculum.
    """

    def __init__(self, dataset: Dataset | IterableDataset, seed: int, *, shuffle: bool = True):
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self.load_state_dict({"epoch": 0, "position": 0})

    def take(self, count: int, seen: set[str]) -> list[dict[str, Any]]:
        """The next `count` examples whose prompts aren't in `seen`; they are added to it.

        If the data set has too few such prompts, some are used again.
        """
        taken: list[dict[str, Any]] = []
        last_epoch = self.epoch + 1  # after it every prompt has been tried
        while len(taken) < count:
            example = next(self._examples, None)
            if example is None:
                self.load_state_dict({"epoch": self.epoch + 1, "position": 0})
                continue
            self.position += 1
            key = prompt_key(example["prompt"])
            if key not in seen or self.epoch > last_epoch:
                seen.add(key)
                taken.append(example)
        return taken

    def state_dict(self) -> dict[str, int]:
        """The position in the current pass."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from there."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._examples = self._rest_of_pass()

    def save(self, folder: str) -> None:
        """Write the position into a checkpoint."""
        with open(os.path.join(folder, ROLLOUT_STATE_FILE), "w") as file:
            json.dump({"fresh_prompts": self.state_dict()}, file)

    def load(self, checkpoint: str, *, is_optional: bool = False) -> None:
        """Continue from the position saved in a checkpoint.

        Raises:
            FileNotFoundError: the checkpoint has none, and `is_optional` isn't set.
        """
        if is_optional and not os.path.exists(os.path.join(checkpoint, ROLLOUT_STATE_FILE)):
            return
        state = read_state(
            checkpoint, ROLLOUT_STATE_FILE, "was written without dynamic sampling, or for its model only"
        )
        self.load_state_dict(state["fresh_prompts"])

    def _rest_of_pass(self) -> Iterator[dict[str, Any]]:
        seed = self.seed + self.epoch
        if isinstance(self.dataset, IterableDataset):
            stream = self.dataset.shuffle(seed=seed) if self.shuffle else self.dataset
            yield from stream.skip(self.position)
            return
        order = torch.arange(len(self.dataset))
        if self.shuffle:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
        for index in order[self.position :].tolist():
            yield self.dataset[index]


def prompt_key(prompt: Any) -> str:
    """A prompt, text or messages, as a hashable key."""
    return json.dumps(prompt, default=str)
