"""A task of your own: one small class.

Train on it from the folder of this file with

    lambda-grpo train --task own_task:LastLetter --model_name_or_path builtin-llama

or run this file, which does the same: within a minute or two on two CPU cores, accuracy rises from 20 % to about 80 %.
"""

import random
import string
import sys

from lambda_grpo.cli import main
from lambda_grpo.tasks import Example


class LastLetter:
    """Name the last letter: the answer to "kfaqz?" is "#z".

    A policy only learns from groups with both right and wrong answers. The built-in policy answers such a prompt with a
    random one of its letters, so about one answer in five is right from the start.
    """

    name = "last_letter"

    def __init__(self, split: str, size: int, seed: int) -> None:
        self.split, self.size, self.seed = split, size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        # Depends only on seed and index, so that every process and every resumed run sees the same example.
        rng = random.Random(f"{self.split}-{self.seed + index}")
        letters = "".join(rng.sample(string.ascii_lowercase, rng.randint(4, 6)))
        return Example(prompt=f"{letters}?", answer=letters[-1])

    def grade(self, completion: str, example: Example) -> float:
        return float(completion.strip().rsplit("#", 1)[-1] == example.answer)


if __name__ == "__main__":
    task = ["--task", "own_task:LastLetter", "--model_name_or_path", "builtin-llama"]
    sys.exit(main(["train", *task, *sys.argv[1:]]))
