"""The last digit of a sum, with an optional chain of thought: the demonstration task.

    prompt      3+8+4+9=
    direct      #4
    worked      3+8=1,1+4=5,5+9=4#4

Only what follows the last `#` is graded, so the policy chooses how long to think, and a length preference has short and
long completions to weigh.
"""

from __future__ import annotations

import random
import re
import zlib

from lambda_grpo.tasks.base import Example

MIN_TERMS, MAX_TERMS = 2, 6
TEST_SPLIT = 5  # one problem in so many belongs to the test split
_ANSWER = re.compile(r"#(\d)\Z")


def direct_solution(terms: list[int]) -> str:
    """The answer without intermediate steps."""
    return f"#{sum(terms) % 10}"


def worked_solution(terms: list[int]) -> str:
    """The running sums, each modulo 10, then the answer."""
    total, steps = terms[0], []
    for term in terms[1:]:
        steps.append(f"{total}+{term}={(total + term) % 10}")
        total = (total + term) % 10
    return ",".join(steps) + f"#{total}"


def is_held_out(prompt: str) -> bool:
    """Whether a problem belongs to the test split. Only the prompt decides, so the splits can't overlap."""
    return zlib.crc32(prompt.encode()) % TEST_SPLIT == 0


class Arithmetic:
    """`size` sums of 2 to 6 digits, modulo 10. Example i depends only on (split, seed + i)."""

    name = "arithmetic"

    def __init__(self, split: str = "train", size: int = 4096, seed: int = 0):
        self.split, self.size, self.seed = split, size, seed

    def __len__(self) -> int:
        return self.size

    def terms(self, index: int) -> list[int]:
        """The digits to add in example `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} examples, no example {index}")
        rng = random.Random(f"{self.split}-{self.seed + index}")
        while True:
            terms = [rng.randint(0, 9) for _ in range(rng.randint(MIN_TERMS, MAX_TERMS))]
            if is_held_out(_prompt(terms)) == (self.split == "test"):
                return terms

    def __getitem__(self, index: int) -> Example:
        terms = self.terms(index)
        return Example(prompt=_prompt(terms), answer=str(sum(terms) % 10), solution=worked_solution(terms))

    def extract(self, completion: str) -> str | None:
        match = _ANSWER.search(completion.strip())
        return match.group(1) if match else None

    def grade(self, completion: str, example: Example) -> float:
        return float(self.extract(completion) == example.answer)


def _prompt(terms: list[int]) -> str:
    return "+".join(map(str, terms)) + "="
