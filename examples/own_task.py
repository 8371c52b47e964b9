"""A task of your own: one small class.

Train on it from the folder that holds this file with

    lambda-grpo train --task own_task:Reverse

or run this file, which does the same for a few steps.
"""

import random
import string
import sys

from lambda_grpo.cli import main
from lambda_grpo.tasks import Example


class Reverse:
    """Write three letters backwards."""

    name = "reverse"

    def __init__(self, split: str, size: int, seed: int) -> None:
        self.split, self.size, self.seed = split, size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        # Only the seed and the index decide, so that every process and every resumed run sees the same example.
        rng = random.Random(f"{self.split}-{self.seed + index}")
        word = "".join(rng.choices(string.ascii_lowercase, k=3))
        return Example(prompt=f"{word}=", answer=word[::-1])

    def grade(self, completion: str, example: Example) -> float:
        return float(completion.removeprefix("#") == example.answer)


if __name__ == "__main__":
    sys.exit(main(["train", "--task", "own_task:Reverse", *(sys.argv[1:] or ["--max_steps", "3"])]))
