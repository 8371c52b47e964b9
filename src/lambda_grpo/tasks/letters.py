"""Letters of the alphabet: tasks whose right length is known, to compare objectives by.

    shorter_is_right    kfaqz>    #z              at once and right, or
                                  k,k,k,q,q#q     by a walk in which each step may err: the last one does here
    neutral             kfaqz<    .......#a       right as often after any number of dots
    null                kfaqz?    .......#q       a coin flip

The alphabetically last letter, the first one, any one. Only what follows the last `#` is graded. How often a length is
right is a property of the solutions that a policy was warmed up on, so they are made here, too: `builtin-llama` has
seen them. `null` alone is fair whatever the policy: any drift of length under it is the objective's own bias.
"""

from __future__ import annotations

import hashlib
import random
import re
import string

from lambda_grpo.tasks.arithmetic import is_held_out
from lambda_grpo.tasks.base import Example

MIN_LETTERS, MAX_LETTERS = 4, 8
STEP_ERROR = 0.3  # of each step of a walk
MAX_FILLER = 24
NEUTRAL_ACCURACY = 0.6
_ANSWER = re.compile(r"#([a-z])\Z")
_SALT = "null"


def direct_solution(letter: str) -> str:
    """The answer at once."""
    return f"#{letter}"


def wandering_solution(letters: str, rng: random.Random) -> str:
    """Letter by letter, the later of two is kept. A step errs with probability STEP_ERROR, and keeps the earlier."""
    kept = [letters[0]]
    for letter in letters[1:]:
        choose = min if rng.random() < STEP_ERROR else max
        kept.append(choose(kept[-1], letter))
    return ",".join(kept) + f"#{kept[-1]}"


def neutral_solution(letters: str, rng: random.Random) -> str:
    """Filler, then the first letter of the alphabet with probability NEUTRAL_ACCURACY, else another of them."""
    right = min(letters)
    letter = right if rng.random() < NEUTRAL_ACCURACY else rng.choice(letters.replace(right, ""))
    return _filler(rng) + f"#{letter}"


def null_solution(letters: str, rng: random.Random) -> str:
    """Filler, then any of the letters."""
    return _filler(rng) + f"#{rng.choice(letters)}"


def _filler(rng: random.Random) -> str:
    return "." * rng.randint(0, MAX_FILLER)


class _Letters:
    """`size` prompts of 4 to 8 distinct letters and a mark. Example i depends on (split, seed + i) alone."""

    name: str
    mark: str

    def __init__(self, split: str = "train", size: int = 4096, seed: int = 0):
        self.split, self.size, self.seed = split, size, seed

    def __len__(self) -> int:
        return self.size

    def letters(self, index: int) -> str:
        """The letters of example `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} examples, no example {index}")
        rng = random.Random(f"{self.name}-{self.split}-{self.seed + index}")
        while True:
            letters = "".join(rng.sample(string.ascii_lowercase, rng.randint(MIN_LETTERS, MAX_LETTERS)))
            if is_held_out(letters + self.mark) == (self.split == "test"):
                return letters

    def extract(self, completion: str) -> str | None:
        match = _ANSWER.search(completion.strip())
        return match.group(1) if match else None

    def grade(self, completion: str, example: Example) -> float:
        return float(self.extract(completion) == example.answer)


class ShorterIsRight(_Letters):
    """The alphabetically last letter: warmed up to be right at once, and mostly wrong after a walk."""

    name, mark = "shorter_is_right", ">"

    def __getitem__(self, index: int) -> Example:
        letters = self.letters(index)
        answer = max(letters)
        return Example(prompt=letters + self.mark, answer=answer, solution=direct_solution(answer))


class Neutral(_Letters):
    """The alphabetically first letter: warmed up to be right as often after any number of dots."""

    name, mark = "neutral", "<"

    def __getitem__(self, index: int) -> Example:
        letters = self.letters(index)
        answer = min(letters)
        return Example(prompt=letters + self.mark, answer=answer, solution=direct_solution(answer))


class Null(_Letters):
    """No answer at all: the reward is 0 or 1 with probability 1/2, whatever the completion and however long it is.

    It follows from prompt and completion, so that a run can be repeated. A digest decides instead of a checksum: with
    crc32 the same change of a completion would flip the coin at each prompt or at none, which could be learned. Give a
    run more prompts than it reads: a prompt met again has the same lucky completions.
    """

    name, mark = "null", "?"

    def __getitem__(self, index: int) -> Example:
        return Example(prompt=self.letters(index) + self.mark, answer=None, metadata={"salt": _SALT})

    def grade(self, completion: str, example: Example) -> float:
        text = f"{example.metadata['salt']} {example.prompt} {completion}"
        return float(hashlib.sha256(text.encode()).digest()[0] & 1)
