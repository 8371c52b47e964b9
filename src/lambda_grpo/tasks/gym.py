"""reasoning-gym's data sets as tasks, graded by their own `score_answer`."""

from __future__ import annotations

from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.tasks.base import Example

# reasoning-gym generates item i from seed + i, so the test split starts far away from the training split
TEST_SEED_OFFSET = 1_000_000_000


def gym_names() -> list[str]:
    """Names of reasoning-gym's data sets; empty if it isn't installed."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        return []
    return sorted(DATASETS)


class GymTask:
    """A reasoning-gym data set.

    Args:
        name: reasoning-gym's name of it, e.g. "chain_sum".
        split: "train" or "test", which use different seeds. Data sets with few distinct problems may repeat some.
        size, seed: passed on to reasoning-gym.
        config: the data set's own options.

    Raises:
        UserError: reasoning-gym refuses these options.
    """

    def __init__(self, name: str, split: str = "train", size: int = 4096, seed: int = 0, **config: Any):
        import reasoning_gym

        self.name = name
        try:
            self._dataset = reasoning_gym.create_dataset(
                name, size=size, seed=seed + (TEST_SEED_OFFSET if split == "test" else 0), **config
            )
        except (AssertionError, TypeError) as error:  # how its data sets refuse their options
            raise UserError(f"reasoning-gym can't make {name!r} with these options: {error}") from error

        # Each item is generated once: some are slow, and list_functions returns a different one at each access.
        self._examples: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        if index not in self._examples:
            item = self._dataset[index]
            answer = None if item["answer"] is None else str(item["answer"])
            self._examples[index] = Example(prompt=item["question"] + "\n", answer=answer, metadata=item)
        return self._examples[index]

    def grade(self, completion: str, example: Example) -> float:
        return float(self._dataset.score_answer(completion.strip(), dict(example.metadata)))
