r"""Whether problems that are trained on are among those that a model is evaluated on.

The two tests that are in use: the same text, and 13 words in a row that two texts share (the n-grams of GPT-3's
appendix C, arXiv 2005.14165). Word for word problems of one mould ("What is the smallest positive integer $n$ such that
…") share 13 words and are different problems all the same, so the second number is an upper bound: the pairs are there
to be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

WORDS = 13

_SIGNS = "\u3040-\u30ff\u4e00-\u9fff"  # Chinese and Japanese, which don't part words: each sign is one
_WORD = re.compile(rf"[{_SIGNS}]|(?:(?![{_SIGNS}])\w)+")


@dataclass(frozen=True)
class Pair:
    """A training problem and a test problem, by index and text, and what they share: all of it, or so many words."""

    training: int
    test: int
    exact: bool
    training_problem: str
    test_problem: str


@dataclass(frozen=True)
class Overlap:
    """What a training set shares with a test set.

    Attributes:
        task: the test set; n: its problems.
        pairs: each training problem that is found at most once, with the first test problem that it is found in.
    """

    task: str
    n: int
    pairs: tuple[Pair, ...]

    @property
    def exact(self) -> int:
        """Training problems whose text is a test problem's."""
        return sum(pair.exact for pair in self.pairs)

    @property
    def shared(self) -> int:
        """Other training problems that share 13 words in a row with one."""
        return len(self.pairs) - self.exact

    def summary(self) -> dict[str, Any]:
        return {"task": self.task, "n": self.n, "exact": self.exact, "shared": self.shared}

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary(), "pairs": [asdict(pair) for pair in self.pairs]}

    def __str__(self) -> str:
        return f"{self.task}: {self.exact} the same, {self.shared} more share {WORDS} words in a row"


def find_overlap(training: Sequence[str], test: Sequence[str], task: str) -> Overlap:
    """The problems of `training` that are in `test`.

    Texts are the same when they differ in case and white space alone. Words are runs of letters, digits and underscores
    in lower case, and single Chinese signs; other signs and punctuation don't count. A text of fewer than 13 words is
    only looked for as a whole.
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
