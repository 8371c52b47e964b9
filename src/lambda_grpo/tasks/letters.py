"""Tasks on letters of the alphabet whose best completion length is known, for comparing objectives.

    shorter_is_right    kfaqz>    #z              directly, and correct; or
                                  k,k,k,q,q#q     step by step, where each step may err (here the last one does)
    neutral             kfaqz<    .......#a       equally accurate after any number of dots
    null                kfaqz?    .......#q       a coin flip

The answer is the alphabetically last letter, the first one, or any one. Only what follows the last `#` is graded. How
accurate each length is depends on the solutions that a policy was warmed up on; they are generated here, and
`builtin-llama` was warmed up on them. Only `null` is neutral for every policy: any drift of length on it is a bias of
the objective.
"""

from __future__ import annotations

import hashlib
import random
import re
import string

from lambda_grpo.tasks.arithmetic import is_held_out
from lambda_grpo.tasks.base import Example

MIN_LETTERS, MAX_LETTERS = 4, 8
STEP_ERROR = 0.3  # error probability of each step
MAX_FILLER = 24
NEUTRAL_ACCURACY = 0.6
_ANSWER = re.compile(r"#([a-z])\Z")
_SALT = "null"


def direct_solution(letter: str) -> str:
    """The answer without intermediate steps."""
    return f"#{letter}"


def wandering_solution(letters: str, rng: random.Random) -> str:
    """A running maximum over the letters. A step errs with probability STEP_ERROR: it keeps the smaller letter."""
    kept = [letters[0]]
    for letter in letters[1:]:
        choose = min if rng.random() < STEP_ERROR else max
        kept.append(choose(kept[-1], letter))
    return ",".join(kept) + f"#{kept[-1]}"


def neutral_solution(letters: str, rng: random.Random) -> str:
    """Filler, then the alphabetically first letter with probability NEUTRAL_ACCURACY, otherwise another one."""
    right = min(letters)
    letter = right if rng.random() < NEUTRAL_ACCURACY else rng.choice(letters.replace(right, ""))
    return _filler(rng) + f"#{letter}"


def null_solution(letters: str, rng: random.Random) -> str:
    """Filler, then any of the letters."""
    return _filler(rng) + f"#{rng.choice(letters)}"


def _filler(rng: random.Random) -> str:
    return "." * rng.randint(0, MAX_FILLER)


class _Letters:
    """`size` prompts of 4 to 8 distinct letters and a mark. Example i depends only on (split, seed + i)."""

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
    """The alphabetically last letter: a warmed-up policy is right directly, and mostly wrong step by step."""

    name, mark = "shorter_is_right", ">"

    def __getitem__(self, index: int) -> Example:
        letters = self.letters(index)
        answer = max(letters)
        return Example(prompt=letters + self.mark, answer=answer, solution=direct_solution(answer))


class Neutral(_Letters):
    """The alphabetically first letter: a warmed-up policy is equally accurate after any number of dots."""

    name, mark = "neutral", "<"

    def __getitem__(self, index: int) -> Example:
        letters = self.letters(index)
        answer = min(letters)
        return Example(prompt=letters + self.mark, answer=answer, solution=direct_solution(answer))


class Null(_Letters):
    """No correct answer: the reward is 0 or 1 with probability 1/2, whatever the completion and its length.

    The reward is a function of prompt and completion, so that a run can be repeated. It is taken from a cryptographic
    digest: with crc32 the same change of a completion would flip the reward for all prompts or for none, which could be
    learned. Use more prompts than the run reads: a repeated prompt rewards the same completions again.
    """

    name, mark = "null", "?"

    def __getitem__(self, index: int) -> Example:
        return Example(prompt=self.letters(index) + self.mark, answer=None, metadata={"salt": _SALT})

    def grade(self, completion: str, example: Example) -> float:
        text = f"{example.metadata['salt']} {example.prompt} {completion}"
        return float(hashlib.sha256(text.encode()).digest()[0] & 1)
