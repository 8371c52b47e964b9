r"""Contamination check: training problems that also occur in a test set.

The two common tests: identical text, and a shared 13-gram of words (as in GPT-3's appendix C, arXiv 2005.14165).
Different problems with the same wording ("What is the smallest positive integer $n$ such that …") can share 13 words,
so the second count is an upper bound; the pairs are recorded for inspection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

WORDS = 13

_SIGNS = "\u3040-\u30ff\u4e00-\u9fff"  # Chinese and Japanese have no spaces between words: each sign counts as one
_WORD = re.compile(rf"[{_SIGNS}]|(?:(?![{_SIGNS}])\w)+")


@dataclass(frozen=True)
class Pair:
    """A training problem and a test problem that overlap: their indices and texts, and whether they are identical."""

    training: int
    test: int
    exact: bool
    training_problem: str
    test_problem: str


@dataclass(frozen=True)
class Overlap:
    """The overlap of a training set with a test set.

    Attributes:
        task: the test set; n: its number of problems.
        pairs: each overlapping training problem once, with the first test problem that it overlaps with.
    """

    task: str
    n: int
    pairs: tuple[Pair, ...]

    @property
    def exact(self) -> int:
        """How many training problems are identical to a test problem."""
        return sum(pair.exact for pair in self.pairs)

    @property
    def shared(self) -> int:
        """How many other training problems share a 13-gram with a test problem."""
        return len(self.pairs) - self.exact

    def summary(self) -> dict[str, Any]:
        return {"task": self.task, "n": self.n, "exact": self.exact, "shared": self.shared}

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary(), "pairs": [asdict(pair) for pair in self.pairs]}

    def __str__(self) -> str:
        return f"{self.task}: {self.exact} the same, {self.shared} more share {WORDS} words in a row"


def find_overlap(training: Sequence[str], test: Sequence[str], task: str) -> Overlap:
    """The problems of `training` that overlap with one of `test`.

    Texts that differ only in case and white space are identical. Words are lower-case runs of letters, digits and
    underscores, and single Chinese or Japanese signs; punctuation is ignored. A text of fewer than 13 words can only
    match as a whole.
    """
    texts: dict[str, int] = {}
    grams: dict[tuple[str, ...], int] = {}
    for i, problem in enumerate(test):
        texts.setdefault(_text(problem), i)
        for gram in _grams(problem):
            grams.setdefault(gram, i)
    pairs = []
    for i, problem in enumerate(training):
        same = texts.get(_text(problem))
        found = same if same is not None else next((grams[gram] for gram in _grams(problem) if gram in grams), None)
        if found is not None:
            pairs.append(Pair(i, found, same is not None, problem, test[found]))
    return Overlap(task, len(test), tuple(pairs))


def _text(problem: str) -> str:
    return " ".join(problem.lower().split())


def _grams(problem: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(problem.lower())
    return [tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]
