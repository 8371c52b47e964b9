"""Which answers of a problem's samples are the same, for a majority to be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

# Whether the two answers of each pair are the same: the second one is taken as the reference.
Same = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]

MOST = 64  # differently written answers of one problem that are compared: the most frequent ones


class Answered(Protocol):
    """What is read of a sample."""

    @property
    def correct(self) -> bool: ...

    @property
    def extracted(self) -> str | None: ...


def pooled_votes(problems: Sequence[Sequence[Answered]], same: Same) -> list[list[str | None]]:
    """A vote for each sample: right answers are one, wrong ones that are the same, too.

    Wrong answers are compared where that can change what the majority says: where no wrong one, as it is written, is
    more frequent than the right ones, and all of them together are as many. Each joins the first, most frequent one
    that it is the same as.

    Args:
        problems: the samples of each problem. Those without an answer have no vote.
        same: how answers are compared. It is called once.
    """
    texts = [_undecided(samples) for samples in problems]
    pairs = list(dict.fromkeys((b, a) for found in texts for i, a in enumerate(found) for b in found[i + 1 :]))
    are_same = {pair for pair, verdict in zip(pairs, same(pairs) if pairs else [], strict=True) if verdict}
    votes = []
    for samples, found in zip(problems, texts, strict=True):
        joined: dict[str, str] = {}
        for text in found:
            leaders = (leader for leader in found if joined.get(leader) == leader and (text, leader) in are_same)
            joined[text] = next(leaders, text)
        votes.append([_vote(sample, joined) for sample in samples])
    return votes


def _undecided(samples: Sequence[Answered]) -> list[str]:
    """The wrong answers, most frequent first, where pooling them can change the majority; otherwise none."""
    right = sum(sample.correct for sample in samples)
    wrong = Counter(sample.extracted for sample in samples if not sample.correct and sample.extracted is not None)
    if not wrong or max(wrong.values()) > right or wrong.total() < right:
        return []
    return [text for text, _ in wrong.most_common(MOST) if text is not None]


def _vote(sample: Answered, joined: dict[str, str]) -> str | None:
    if sample.correct:
        return "right"
    return None if sample.extracted is None else f"wrong: {joined.get(sample.extracted, sample.extracted)}"
