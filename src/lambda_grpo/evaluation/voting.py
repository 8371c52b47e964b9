"""Majority voting: pooling equivalent answers among the samples of a problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

# Whether the two answers of each pair are equivalent; the second one is taken as the reference.
SameAnswers = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]

MAX_COMPARED = 64  # distinct answers per problem that are compared: the most frequent ones


class GradedAnswer(Protocol):
    """The attributes of a sample that voting needs."""

    @property
    def correct(self) -> bool: ...

    @property
    def extracted(self) -> str | None: ...


def pooled_votes(problems: Sequence[Sequence[GradedAnswer]], same: SameAnswers) -> list[list[str | None]]:
    """A vote for each sample: all right answers share one, and so do wrong answers that are equivalent.

    Wrong answers are only compared if that can change the majority: if no wrong answer, as written, is more frequent
    than the right ones, and all wrong ones together are at least as many. Each one is pooled with the first, i.e. most
    frequent, answer that it is equivalent to.

    Args:
        problems: the samples of each problem. Those without an answer get None.
        same: compares pairs of answers. It is called at most once.
    """
    texts = [_undecided(samples) for samples in problems]
    pairs = list(dict.fromkeys((b, a) for found in texts for i, a in enumerate(found) for b in found[i + 1 :]))
    are_same = {pair for pair, verdict in zip(pairs, same(pairs) if pairs else [], strict=True) if verdict}
    votes = []
    for samples, found in zip(problems, texts, strict=True):
        pooled: dict[str, str] = {}  # answer -> the answer that it is pooled with
        for text in found:
            leaders = (leader for leader in found if pooled.get(leader) == leader and (text, leader) in are_same)
            pooled[text] = next(leaders, text)
        votes.append([_vote(sample, pooled) for sample in samples])
    return votes


def _undecided(samples: Sequence[GradedAnswer]) -> list[str]:
    """The wrong answers, most frequent first, if pooling them can change the majority; otherwise empty."""
    right = sum(sample.correct for sample in samples)
    wrong = Counter(sample.extracted for sample in samples if not sample.correct and sample.extracted is not None)
    if not wrong or max(wrong.values()) > right or wrong.total() < right:
        return []
    return [text for text, _ in wrong.most_common(MAX_COMPARED) if text is not None]


def _vote(sample: GradedAnswer, pooled: dict[str, str]) -> str | None:
    if sample.correct:
        return "right"
    return None if sample.extracted is None else f"wrong: {pooled.get(sample.extracted, sample.extracted)}"
